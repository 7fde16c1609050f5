// Order and filters, the chips of those that are active, and the downloads.

import { address } from './api.js';
import { byId, counted, el, labelled, options } from './dom.js';
import { emit, labelOf, on, sentView, setView, state } from './state.js';
import { shownColumns } from './grid.js';

const RISING = ['rank', 'name', 'caption', 'harmful'];
const rises = (key) => RISING.some((name) => key === name || key.startsWith(`${name}:`));

function numberColumns() {
  const queries = state.meta.queries.filter((query) => query.votes);
  return [
    ...state.meta.columns.map((column) => [column.key, column.label]),
    ...queries.map((query) => [`influence:${query.id}`, `influence on ${query.name}${query.category ? ` (${query.category})` : ''}`]),
  ];
}

export function buildFilters() {
  const { meta } = state;
  const root = byId('filters');
  const sort = options(el('select', { id: 'sort' }), [['', 'clip id'], ...numberColumns()], state.view.sort);
  const direction = el('button', { id: 'direction', onclick: () => setView({ descending: !state.view.descending }) });
  sort.onchange = () => setView({ sort: sort.value, descending: Boolean(sort.value) && !rises(sort.value) });
  const one = (key, title, values, hint) => {
    if (!values.length) return [];
    const control = options(el('select', { id: `by-${key}`, title: hint }), [['', 'any'], ...values.map((value) => [value, value])], '');
    control.onchange = () => setView({ [key]: control.value ? [control.value] : [] });
    on('view', () => { control.value = state.view[key]?.[0] ?? ''; });
    return [el('div', {}, ...labelled(title, control))];
  };
  const arm = options(el('select', { id: 'by-arm' }), [['', 'any'], ...meta.arms.flatMap(({ name, num }) => [[`in ${name}`, `chosen by ${name} (${counted(num)})`], [`out ${name}`, `not chosen by ${name}`]])], '');
  arm.onchange = () => { const [part, ...name] = arm.value.split(' '); setView({ arm: name.join(' '), in_arm: part === 'out' ? 'out' : '' }); };
  const tick = options(el('select', { id: 'by-tick' }), [['', 'any'], ['keep', 'keep'], ['drop', 'drop'], ['noted', 'with a note'], ['none', 'without tick or note']], '');
  tick.onchange = () => setView({ tick: tick.value });
  const variants = meta.variants.length > 1 ? options(el('select', { id: 'by-variant' }), meta.variants.map(({ name }) => [name, name]), meta.lead) : null;
  if (variants) variants.onchange = () => setView({ variant: variants.value });
  root.replaceChildren(
    el('h2', { text: 'Order and filters' }),
    labelled('Order by', sort)[0], el('div', { className: 'row order' }, sort, direction),
    ...(variants ? labelled('Influence by the variant', variants) : []),
    el('div', { className: 'pairs' },
      ...one('category', 'Category', meta.categories, 'The category of the query on which the clip has most influence'),
      ...one('source', 'Source', meta.sources), ...one('flag', 'Flag', meta.flags),
      ...(meta.arms.length ? [el('div', {}, ...labelled('Arm', arm))] : []), el('div', {}, ...labelled('Your ticks', tick))),
    ...range());
  on('view', () => {
    sort.value = state.view.sort ?? '';
    direction.textContent = state.view.descending ? '↓' : '↑';
    direction.title = state.view.descending ? 'The highest first. Turn it round' : 'The lowest first. Turn it round';
    direction.setAttribute('aria-label', direction.title);
    arm.value = state.view.arm ? `${state.view.in_arm === 'out' ? 'out' : 'in'} ${state.view.arm}` : '';
    tick.value = state.view.tick ?? '';
    chips();
  });
  tools();
}

function range() {
  const column = options(el('select', { id: 'range-column' }), numberColumns().filter(([key]) => key !== 'name' && key !== 'caption'), '');
  const low = el('input', { type: 'number', step: 'any', id: 'range-low', placeholder: 'from', 'aria-label': 'Lowest value' });
  const high = el('input', { type: 'number', step: 'any', id: 'range-high', placeholder: 'to', 'aria-label': 'Highest value' });
  const add = el('button', { text: 'Add', onclick: () => {
    const ends = [low, high].map((input) => (input.value === '' ? null : Number(input.value)));
    if (ends.some((end) => end !== null)) setView({ ranges: { ...state.view.ranges, [column.value]: ends } });
  } });
  return [...labelled('Range of', column), el('div', { className: 'row' }, low, high, add)];
}

function chips() {
  const { view } = state;
  const found = [];
  const chip = (text, change) => found.push(el('button', { className: 'chip', text, title: `Remove: ${text}`, onclick: () => setView(change) }));
  if (view.text) chip(`“${view.text}”`, { text: '' });
  for (const key of ['category', 'source', 'flag']) if (view[key]) chip(`${key} ${view[key].join(', ')}`, { [key]: [] });
  if (view.arm) chip(`${view.in_arm === 'out' ? 'not ' : ''}chosen by ${view.arm}`, { arm: '', in_arm: '' });
  if (view.tick) chip(`tick ${view.tick}`, { tick: '' });
  for (const [key, [low, high]] of Object.entries(view.ranges ?? {})) {
    const { [key]: _, ...others } = view.ranges;
    chip(`${labelOf(key)} ${low === null ? '' : `≥ ${low}`} ${high === null ? '' : `≤ ${high}`}`, { ranges: others });
  }
  if (view.choice) {
    const { part, arm, share, percentile } = view.choice;
    const words = { chosen: 'chosen', came: `new beside ${arm}`, went: `gone from ${arm}` }[part];
    chip(`${words} at ${(share * 100).toFixed(1)} %, percentile ${percentile}`, { choice: null });
  }
  if (view.selection) chip('selected on the map', { selection: '' });
  byId('chips').replaceChildren(...found);
}

function tools() {
  const mask = el('button', { id: 'mask', text: 'Masks', 'aria-pressed': state.mask, title: 'Show the motion masks (m)', onclick: () => emit('mask') });
  const still = el('button', { id: 'still', text: 'Still', 'aria-pressed': state.still, title: 'Pictures that do not move', onclick: () => { state.still = !state.still; still.setAttribute('aria-pressed', state.still); emit('pictures'); } });
  on('mask', () => { state.mask = !state.mask; mask.setAttribute('aria-pressed', state.mask); emit('pictures'); });
  const link = (kind) => {
    const anchor = el('a', { text: kind.toUpperCase(), download: `clips.${kind}`, href: '#', title: `These clips with all their columns as ${kind}` });
    anchor.addEventListener('click', () => { anchor.href = address(`/download/clips.${kind}`, { v: state.meta.version, view: sentView(), column: shownColumns() }); });
    return anchor;
  };
  byId('tools').replaceChildren(mask, still, link('csv'), link('parquet'));
}
