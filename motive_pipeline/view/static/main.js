// The explorer: its tabs, keys and the watch for newer scores.

import { ask } from './api.js';
import { byId, counted, el } from './dom.js';
import { buildDrawer } from './drawer.js';
import { buildDrop, chooseVideo } from './drop.js';
import { buildFilters } from './filters.js';
import { Grid, shownColumns } from './grid.js';
import { showMap } from './map.js';
import { showQueries, showRejects } from './panels.js';
import { buildTray, playInStep } from './players.js';
import { buildSlider } from './slider.js';
import { emit, on, sentView, setView, state, toggleCompared, toggleTick } from './state.js';

const LOOK_MS = 5000;
const TYPED_MS = 180;
const KEYS = { '/': 'search', '← ↑ → ↓': 'from clip to clip', Enter: 'open the clip', Esc: 'close', k: 'keep', d: 'drop', c: 'add to those to compare', p: 'play those in step', m: 'motion masks', '?': 'these keys' };
const PANELS = { queries: showQueries, map: showMap, rejects: showRejects };

let grid;

async function start() {
  history.replaceState(null, '', '/'); // the token is in the cookie by now
  state.meta = await ask('/api/meta');
  const { meta } = state;
  document.title = `motive view · ${meta.root.split('/').slice(-2).join('/')}`;
  byId('root').textContent = meta.root.split('/').slice(-2).join('/');
  byId('root').title = `${meta.root}\n${meta.config}`;
  byId('pages').replaceChildren(...meta.pages.map((page) => el('a', { href: `/${page.address}`, target: '_blank', rel: 'noopener', text: page.name })));
  meta.notes.forEach((text) => note(text));
  state.ticks = (await ask('/api/edits').catch(() => ({ ticks: {} }))).ticks;
  grid = new Grid(byId('grid'));
  buildFilters();
  buildSlider();
  buildDrawer();
  buildTray();
  buildDrop();
  tabs();
  on('view', show);
  on('pictures', () => grid.redraw('pictures'));
  on('tick', () => grid.redraw('ticks'));
  on('problem', note);
  on('counted', (total) => { byId('count').textContent = `${counted(total)} of ${counted(meta.num_clips)} clips`; });
  on('tab', choose);
  const first = `rank:${meta.lead}`;
  setView(meta.columns.some((column) => column.key === first) ? { sort: first } : {});
  setInterval(look, LOOK_MS);
}

function tabs() {
  const { meta } = state;
  const all = [['clips', 'Clips', meta.num_clips], ['queries', 'Queries', meta.queries.filter((query) => query.votes).length], ['map', 'Map'], ['harmful', 'Harmful', meta.num_harmful], ['rejects', 'Rejects', meta.num_rejects]];
  byId('tabs').replaceChildren(...all.map(([name, title, number]) => el('button', { id: `tab-${name}`, role: 'tab', 'aria-selected': name === state.tab, onclick: () => emit('tab', name) }, title, number === undefined ? null : el('span', { className: 'num', text: counted(number) }))));
}

function choose(name) {
  if (name === state.tab) return;
  const before = state.tab;
  state.tab = name;
  for (const tab of byId('tabs').children) tab.setAttribute('aria-selected', tab.id === `tab-${name}`);
  emit('close');
  const isList = !(name in PANELS);
  byId('grid').hidden = !isList;
  byId('bar').hidden = name === 'rejects';
  byId('tools').hidden = byId('count').hidden = !isList;
  byId('panel').hidden = isList;
  byId('panel').replaceChildren();
  if (name === 'harmful') setView({ sort: 'harmful', descending: false });
  else if (before === 'harmful' && name === 'clips') setView({ sort: `rank:${state.meta.lead}`, descending: false });
  else show();
}

async function show() {
  if (state.tab in PANELS) return PANELS[state.tab]();
  try {
    await grid.show({ v: state.meta.version, view: sentView(), column: shownColumns() });
    if (!grid.total) grid.space.replaceChildren(el('p', { className: 'empty', text: state.tab === 'harmful' ? 'No clip is harmful here: none of those with the lowest mean influence has one below zero.' : 'No clip fits all filters.' }));
    else grid.space.querySelector(':scope > .empty')?.remove();
  } catch (error) {
    if (error.name !== 'AbortError') note(error.message, error);
  }
}

function note(text, error) {
  const root = byId('notes');
  if (error?.status === 410) return offerReload();
  if ([...root.children].some((each) => each.dataset.text === text)) return;
  const line = el('p', { 'data-text': text }, text, el('button', { text: 'Dismiss', onclick: () => line.remove() }));
  root.append(line);
}

function offerReload() {
  if (byId('newer')) return;
  byId('notes').prepend(el('p', { id: 'newer' }, 'A run has published newer scores. This page still shows the earlier ones.', el('button', { text: 'Reload', onclick: () => location.reload() })));
}

let seenEdits;

async function readEdits(stamp) { // another page, another viewer or an editor may have written the file
  const found = await ask('/api/edits').catch(() => null);
  if (!found) return;
  seenEdits = stamp;
  state.ticks = found.ticks;
  emit('tick');
}

async function look() {
  if (document.hidden) return;
  try {
    const { version, edits } = await ask('/api/version');
    byId('lost')?.remove();
    if (version && version !== state.meta.version) offerReload();
    if (edits !== seenEdits) await readEdits(edits);
  } catch {
    if (!byId('lost')) byId('notes').prepend(el('p', { id: 'lost', text: 'The viewer has stopped. Start it again with `motive view`.' }));
  }
}

function help() {
  const dialog = byId('dialog');
  dialog.replaceChildren(el('div', { className: 'head' }, el('h2', { id: 'dialog-title', text: 'Keys' }), el('button', { className: 'close', text: '×', 'aria-label': 'Close', onclick: () => dialog.close() })),
    el('dl', {}, ...Object.entries(KEYS).flatMap(([key, what]) => [el('dt', {}, el('kbd', { text: key })), el('dd', { text: what })])),
    el('p', { className: 'small soft' }, `Ticks and notes are saved in ${state.meta.edits}. The arm “edited” and motive export --arm edited honour them.`));
  dialog.showModal();
}

function pressed(event) {
  const isTyping = event.target.matches('input, textarea, select');
  if (event.key === 'Escape' && !byId('dialog').open) {
    if (byId('side').classList.contains('open')) toggleSide();
    else if (isTyping) event.target.blur();
    else emit('close');
    return;
  }
  if (isTyping || event.ctrlKey || event.metaKey || event.altKey || byId('dialog').open) return;
  const clip = document.activeElement?.closest?.('#grid .tile')?.row ?? grid?.current();
  const acts = {
    '/': () => byId('search').focus(),
    '?': help,
    m: () => emit('mask'),
    p: () => { if (state.compared.length > 1) playInStep(state.compared); },
    k: () => clip && toggleTick(clip.id, 'keep'),
    d: () => clip && toggleTick(clip.id, 'drop'),
    c: () => clip && toggleCompared(clip),
    Enter: () => clip && document.activeElement.closest('.tile') && emit('open', clip),
  };
  const isOnGrid = !document.activeElement.closest('#side, #drawer, #top, #panel, #tray');
  if (/^(Arrow|Home|End)/.test(event.key) && isOnGrid && !(state.tab in PANELS)) { event.preventDefault(); grid.move(event.key); } else if (acts[event.key]) { if (event.key !== 'Enter') event.preventDefault(); acts[event.key](); }
}

function toggleSide() {
  const isOpen = byId('side').classList.toggle('open');
  byId('open-filters').setAttribute('aria-expanded', isOpen);
}

let typed = 0;
byId('search').addEventListener('input', (event) => { clearTimeout(typed); typed = setTimeout(() => setView({ text: event.target.value.trim() }), TYPED_MS); });
byId('help').addEventListener('click', help);
byId('ask').addEventListener('click', chooseVideo);
byId('open-filters').addEventListener('click', toggleSide);
byId('centre').addEventListener('click', () => { if (byId('side').classList.contains('open')) toggleSide(); });
document.addEventListener('keydown', pressed);
start().catch((error) => note(error.message));
