// The list of clips: only the tiles in sight are on the page, and rows are fetched a hundred at a time.

import { ask } from './api.js';
import { el } from './dom.js';
import { emit, state } from './state.js';
import { markTick, showPicture, tile } from './tile.js';

const PAGE = 100;
const GAP = 14;
const LINES_PX = 76;
const MAX_PX = 8e6; // browsers draw nothing beyond some ten million pixels; a longer list scrolls faster
const KEPT_PAGES = 60;

export class Grid {
  constructor(root) {
    this.root = root;
    this.space = el('div', { className: 'space' });
    root.append(this.space);
    this.total = 0;
    this.pages = new Map();
    this.nodes = new Map();
    this.focused = 0;
    root.addEventListener('scroll', () => this.draw(), { passive: true });
    new ResizeObserver(() => this.layOut()).observe(root);
  }

  async show(query) {
    this.query = query;
    this.asked?.abort();
    this.asked = new AbortController();
    this.pages.clear();
    const first = await this.fetchPage(0, query);
    if (query !== this.query) return;
    this.total = first.total;
    this.focused = 0;
    this.clear();
    this.pages.set(0, first.rows);
    this.root.scrollTop = 0;
    this.layOut();
    emit('counted', this.total);
  }

  fetchPage(page, query) {
    return ask('/api/clips', { ...query, offset: page * PAGE, limit: PAGE }, this.asked.signal);
  }

  row(index) {
    const page = Math.floor(index / PAGE);
    const rows = this.pages.get(page);
    if (Array.isArray(rows)) return rows[index - page * PAGE];
    if (rows === undefined) {
      const query = this.query;
      this.pages.set(page, 'asked');
      this.fetchPage(page, query).then((found) => {
        if (query !== this.query) return;
        this.pages.set(page, found.rows);
        for (const old of [...this.pages.keys()].slice(0, Math.max(0, this.pages.size - KEPT_PAGES))) this.pages.delete(old);
        this.draw();
      }, (error) => {
        this.pages.delete(page);
        if (error.name !== 'AbortError') emit('problem', error.message, error);
      });
    }
    return null;
  }

  clear() {
    for (const node of this.nodes.values()) node.remove();
    this.nodes.clear();
  }

  layOut() {
    const style = getComputedStyle(this.root);
    const width = this.root.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
    if (width <= 0) return;
    const wanted = width < 420 ? 150 : 168;
    this.columns = Math.max(1, Math.floor((width + GAP) / (wanted + GAP)));
    this.size = Math.floor((width - GAP * (this.columns - 1)) / this.columns);
    this.root.style.setProperty('--tile', `${this.size}px`);
    this.pitch = Math.round(this.size * 0.75) + LINES_PX + GAP;
    this.height = Math.ceil(this.total / this.columns) * this.pitch;
    this.space.style.height = `${Math.min(this.height, MAX_PX)}px`;
    this.clear();
    this.draw();
  }

  top() { // of the part in sight, in a list of the full height
    const range = Math.min(this.height, MAX_PX) - this.root.clientHeight;
    const whole = this.height - this.root.clientHeight;
    return range > 0 && whole > range ? (this.root.scrollTop / range) * whole : this.root.scrollTop;
  }

  draw() {
    if (!this.pitch) return;
    const top = this.top();
    const from = Math.max(0, Math.floor(top / this.pitch) - 1) * this.columns;
    const to = Math.min(this.total, (Math.ceil((top + this.root.clientHeight) / this.pitch) + 1) * this.columns);
    for (const [index, node] of this.nodes) if (index < from || index >= to) { node.remove(); this.nodes.delete(index); }
    for (let index = from; index < to; index += 1) {
      const row = this.nodes.has(index) ? null : this.row(index);
      if (row) {
        const node = tile(row, { place: index + 1, total: this.total, value: this.query.column[0] });
        node.addEventListener('focus', () => { this.focused = index; });
        this.space.append(node);
        this.nodes.set(index, node);
      }
      this.put(index, top);
    }
  }

  put(index, top) {
    const node = this.nodes.get(index);
    if (!node) return;
    const y = Math.floor(index / this.columns) * this.pitch - top + this.root.scrollTop;
    node.style.transform = `translate(${(index % this.columns) * (this.size + GAP)}px, ${Math.round(y)}px)`;
  }

  move(key) {
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -this.columns, ArrowDown: this.columns, Home: -this.total, End: this.total }[key];
    this.focus(Math.min(this.total - 1, Math.max(0, this.focused + step)));
  }

  async focus(index) {
    this.focused = index;
    const y = Math.floor(index / this.columns) * this.pitch;
    const top = this.top();
    if (y < top || y + this.pitch > top + this.root.clientHeight) {
      const range = Math.min(this.height, MAX_PX) - this.root.clientHeight;
      const whole = this.height - this.root.clientHeight;
      const target = y < top ? y : y + this.pitch - this.root.clientHeight;
      this.root.scrollTop = whole > range && range > 0 ? (target / whole) * range : target;
      this.draw();
    }
    for (let tries = 0; tries < 40 && !this.nodes.has(index); tries += 1) await new Promise((go) => setTimeout(go, 25));
    if (this.focused === index) this.nodes.get(index)?.focus({ preventScroll: true });
  }

  current() {
    return this.nodes.get(this.focused)?.row ?? null;
  }

  redraw(what) {
    for (const node of this.nodes.values()) what === 'pictures' ? showPicture(node) : markTick(node);
  }
}

export const shownColumns = () => [state.view.sort || `rank:${state.meta.lead}`].filter((key) => key !== 'name' && key !== 'caption');
