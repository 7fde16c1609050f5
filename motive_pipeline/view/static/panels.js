// The tabs beside the list of clips: queries with their best and worst clips, and rejects.

import { ask } from './api.js';
import { byId, counted, el, labelled, options } from './dom.js';
import { emit, sentView, setView, state } from './state.js';
import { tile } from './tile.js';

const SHOWN = 8;

export async function showQueries() {
  const panel = byId('panel');
  const asking = state.meta.queries.filter((query) => query.votes);
  if (!asking.length) return panel.replaceChildren(el('p', { className: 'empty', text: 'No query has voted yet.' }));
  panel.replaceChildren(el('p', { className: 'soft', text: 'Each query beside the clips of highest and of lowest influence on it.' }));
  for (const query of asking) {
    const cards = [el('div', { className: 'cards' }), el('div', { className: 'cards' })];
    const card = tile({ id: query.id, name: query.name, caption: query.caption, values: {} });
    card.tabIndex = -1;
    card.querySelector('.name').after(el('span', { className: 'value', text: query.category }));
    const key = `influence:${query.id}`;
    panel.append(el('section', { className: 'query', 'aria-label': `Query ${query.name}` }, card, el('div', {},
      el('h3', { text: 'Highest influence' }), cards[0], el('h3', { text: 'Lowest influence' }), cards[1],
      el('button', { text: 'All clips by this query', onclick: () => { emit('tab', 'clips'); setView({ sort: key, descending: true }); } }))));
    for (const [number, descending] of [[0, true], [1, false]]) {
      const view = { ...sentView(), sort: key, descending, ranges: { [key]: [-1e30, null], ...state.view.ranges } };
      ask('/api/clips', { v: state.meta.version, view, limit: SHOWN, column: [key] })
        .then(({ rows }) => cards[number].replaceChildren(...(rows.length ? rows.map((row) => tile(row, { value: key, isNamed: false })) : [el('p', { className: 'soft', text: 'No clip fits all filters.' })])), (error) => emit('problem', error.message, error));
    }
  }
}

export function showRejects() {
  const panel = byId('panel');
  const body = el('tbody');
  const count = el('p', { className: 'soft', role: 'status' });
  const reason = el('select', { 'aria-label': 'Reason' });
  const more = el('button', { text: 'More', hidden: true });
  let offset = 0;
  const load = async (afresh) => {
    offset = afresh ? 0 : offset;
    const found = await ask('/api/rejects', { v: state.meta.version, text: state.view.text ?? '', reason: reason.value, offset, limit: 200 });
    if (!reason.options.length) options(reason, [['', 'any reason'], ...found.reasons.map((each) => [each.reason, `${each.reason} (${counted(each.num)})`])], '');
    if (afresh) body.replaceChildren();
    body.append(...found.rows.map((row) => el('tr', {},
      el('th', { scope: 'row' }, row.in_catalog ? el('button', { text: row.path, onclick: () => emit('open', { id: row.clip_id, name: row.path }) }) : row.path),
      el('td', { text: row.stage }), el('td', { text: row.reason }), el('td', { text: row.detail }))));
    offset += found.rows.length;
    count.textContent = found.total ? `${counted(found.total)} files or clips that a stage could not use` : 'No rejects.';
    more.hidden = offset >= found.total;
  };
  const tell = (error) => emit('problem', error.message, error);
  reason.onchange = () => load(true).catch(tell);
  more.onclick = () => load(false).catch(tell);
  panel.replaceChildren(count, el('div', { className: 'maptools' }, el('div', {}, ...labelled('Reason', reason))),
    el('table', { className: 'rejects' }, el('thead', {}, el('tr', {}, ...['file', 'stage', 'reason', 'detail'].map((text) => el('th', { scope: 'col', text })))), body), more);
  load(true).catch(tell);
}
