// One clip as a looping tile.

import { loadPicture } from './api.js';
import { el, shown } from './dom.js';
import { emit, labelOf, state, tickOf } from './state.js';

const WAIT_MS = 90; // tiles that fly past load nothing

export function tile(row, { place, total, value, isNamed = true } = {}) {
  const picture = el('div', { className: 'picture' });
  const node = el('article', { className: 'tile', tabIndex: 0, 'aria-posinset': place, 'aria-setsize': total, 'data-id': row.id },
    picture,
    el('div', { className: 'lines' },
      el('span', { className: 'name', text: row.name, title: row.name }),
      value && el('span', { className: 'value', text: `${isNamed ? `${labelOf(value)} ` : ''}${shown(row.values[value])}` }),
      el('span', { className: 'cap', text: row.caption })));
  node.row = row;
  const chosen = row.arms?.includes(state.meta.lead_arm);
  node.classList.toggle('chosen', Boolean(chosen));
  node.setAttribute('aria-label', `${row.name}${chosen ? ', chosen' : ''}. ${row.caption.slice(0, 120)}`);
  node.addEventListener('click', () => emit('open', row));
  markTick(node);
  setTimeout(() => showPicture(node), WAIT_MS);
  return node;
}

export function showPicture(node) {
  const picture = node.querySelector('.picture');
  if (!node.isConnected) return;
  const kind = state.mask ? 'mask' : state.still ? 'still' : 'loop';
  const image = el('img', { alt: '', draggable: false });
  picture.querySelector('img, .why')?.remove();
  picture.prepend(image);
  loadPicture(image, `/tiles/${node.dataset.id}/${kind}`, (why) => {
    image.replaceWith(el('p', { className: 'why', text: why }));
  });
}

export function markTick(node) {
  const { tick, note } = tickOf(node.dataset.id);
  node.dataset.tick = tick;
  node.querySelectorAll('.badge').forEach((badge) => badge.remove());
  const text = [tick, note && !tick && 'note'].filter(Boolean).join(' ');
  if (text) node.querySelector('.picture').append(el('span', { className: `badge ${tick || 'note'}`, text: note && tick ? `${tick} ·` : text, title: note }));
}
