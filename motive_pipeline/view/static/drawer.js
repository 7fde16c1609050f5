// Everything about one clip.

import { ask } from './api.js';
import { byId, el, labelled, shown } from './dom.js';
import { emit, labelOf, on, saveTick, setView, state, tickOf, toggleCompared, toggleTick } from './state.js';
import { video } from './players.js';

let current = null;

export function buildDrawer() {
  on('open', open);
  on('close', close);
  on('tick', (id) => { if (current && (id === undefined || current.id === id)) markTicks(); });
  on('pictures', () => { if (current) showVideo(); });
}

function close() {
  current = null;
  byId('drawer').hidden = true;
  byId('drawer').replaceChildren();
}

async function open(row) {
  const drawer = byId('drawer');
  current = row;
  drawer.hidden = false;
  drawer.replaceChildren(el('p', { className: 'soft', text: 'Loading' }));
  let clip;
  try {
    clip = await ask(`/api/clips/${row.id}`, { v: state.meta.version, variant: state.view.variant || state.meta.lead });
  } catch (error) {
    if (current === row) drawer.replaceChildren(head(row.name), el('p', { text: error.message }));
    return;
  }
  if (current !== row) return;
  const largest = Math.max(...clip.influence.map((each) => Math.abs(each.influence)), 1e-12);
  drawer.replaceChildren(
    head(clip.name), el('div', { id: 'player' }),
    el('div', { className: 'row', id: 'ticks' }),
    ...labelled('Note', el('textarea', { id: 'note', rows: 2, value: tickOf(clip.id).note, maxLength: 10000, onchange: (event) => saveTick(clip.id, { note: event.target.value }) })),
    el('p', {}, el('a', { href: `/explain/${clip.id}`, target: '_blank', rel: 'noopener', text: 'Why it was (not) chosen' }), clip.has_original ? ' · ' : '',
      clip.has_original && el('a', { href: `/videos/${clip.id}/original`, target: '_blank', rel: 'noopener', text: 'the whole file' })),
    el('h3', { text: 'Caption' }), el('p', { className: 'caption', text: clip.caption || 'none' }),
    ...clip.rejects.map((each) => el('p', { text: `Rejected by ${each.stage}: ${each.reason}. ${each.detail}` })),
    ...(clip.influence.length ? [el('h3', { text: 'Influence by query' }), influenceTable(clip, largest)] : []),
    el('h3', { text: 'Figures' }),
    el('dl', {}, ...Object.entries(clip.values).filter(([, value]) => value !== null).flatMap(([key, value]) => [el('dt', { text: labelOf(key) }), el('dd', { text: shown(value) })]),
      ...pairs({ arms: clip.arms.join(', '), flags: (clip.flags || []).join(', '), source: clip.source, 'clip id': clip.id })),
    el('p', { className: 'path', text: clip.path }));
  showVideo();
  markTicks();
  drawer.scrollTop = 0;
}

const pairs = (values) => Object.entries(values).filter(([, value]) => value).flatMap(([name, value]) => [el('dt', { text: name }), el('dd', { text: value })]);

const head = (name) => el('div', { className: 'head' }, el('h2', { text: name }), el('button', { className: 'close', text: '×', 'aria-label': 'Close', onclick: () => emit('close') }));

function showVideo() {
  byId('player')?.replaceChildren(video(current.id, state.mask ? 'mask' : 'scored'));
}

function markTicks() {
  const { tick } = tickOf(current.id);
  const button = (kind, key) => el('button', { text: kind, 'aria-pressed': tick === kind, title: `${kind} (${key})`, onclick: () => toggleTick(current.id, kind) });
  const row = current;
  byId('ticks')?.replaceChildren(button('keep', 'k'), button('drop', 'd'), el('button', { text: 'compare', title: 'Add to those to compare (c)', onclick: () => toggleCompared(row) }));
}

function influenceTable(clip, largest) {
  const bar = (value) => el('i', { className: value < 0 ? 'minus' : '', style: `${value < 0 ? 'right' : 'left'}: 50%; width: ${(50 * Math.abs(value)) / largest}%` });
  return el('table', {}, el('thead', {}, el('tr', {}, ...['query', '', 'influence'].map((text) => el('th', { scope: 'col', text })))),
    el('tbody', {}, ...clip.influence.map((each) => el('tr', {},
      el('th', { scope: 'row' }, el('button', { text: each.name || each.query, title: 'Order the clips by their influence on this query', onclick: () => setView({ sort: `influence:${each.query}`, descending: true }) }), el('span', { className: 'soft', text: each.category ? ` ${each.category}` : '' })),
      el('td', {}, el('span', { className: 'meter' }, bar(each.influence))), el('td', { text: shown(each.influence) })))));
}
