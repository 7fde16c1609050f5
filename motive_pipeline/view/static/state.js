// What the page knows: the version it looks at, the view (filters and order), the ticks. Parts of the page listen for changes.

import { send } from './api.js';

export const state = {
  meta: null,
  view: {},
  tab: 'clips',
  mask: false,
  still: matchMedia('(prefers-reduced-motion: reduce)').matches,
  ticks: {},
  compared: [],
};

const listeners = {};

export function on(event, act) {
  (listeners[event] ||= []).push(act);
}

export function emit(event, detail) {
  for (const act of listeners[event] || []) act(detail);
}

export function setView(change) {
  state.view = Object.fromEntries(Object.entries({ ...state.view, ...change }).filter(([, value]) => !isEmpty(value)));
  emit('view');
}

function isEmpty(value) {
  return value === '' || value === null || value === undefined || value === false
    || (Array.isArray(value) && !value.length) || (value.constructor === Object && !Object.keys(value).length);
}

export function sentView() {
  const view = { variant: state.meta.lead, ...state.view };
  if (state.tab === 'harmful') Object.assign(view, { harmful: true });
  return view.in_arm === 'out' ? { ...view, in_arm: false } : view;
}

export const tickOf = (id) => state.ticks[id] || { tick: '', note: '' };

export async function saveTick(id, change) {
  const before = tickOf(id);
  const wanted = { ...before, ...change };
  state.ticks[id] = wanted;
  emit('tick', id);
  try {
    const saved = await send('/api/edits', { id, ...change }); // what was not changed here may have been changed elsewhere
    state.ticks[id] = { tick: saved.tick, note: saved.note };
  } catch (error) {
    state.ticks[id] = before;
    emit('problem', error.message);
  }
  emit('tick', id);
}

export const toggleTick = (id, tick) => saveTick(id, { tick: tickOf(id).tick === tick ? '' : tick });

export function toggleCompared(clip) {
  const there = state.compared.findIndex((each) => each.id === clip.id);
  if (there >= 0) state.compared.splice(there, 1);
  else state.compared = [...state.compared, clip].slice(-4);
  emit('compared');
}

export function labelOf(key) {
  if (key.startsWith('influence:')) {
    const query = state.meta.queries.find((each) => `influence:${each.id}` === key);
    return `influence on ${query ? query.name : key.slice(10)}`;
  }
  return state.meta.columns.find((column) => column.key === key)?.label ?? key;
}
