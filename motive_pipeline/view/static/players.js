// One video, or several in step.

import { el } from './dom.js';
import { byId } from './dom.js';
import { emit, state, toggleCompared, on } from './state.js';

const DRIFT_S = 0.06;

export function video(id, kind) {
  const player = el('video', { src: `/videos/${id}/${kind}`, loop: true, muted: true, autoplay: !state.still, controls: true, playsInline: true, preload: 'auto' });
  player.addEventListener('error', async () => {
    const response = await fetch(player.src).catch(() => null);
    const body = response && !response.ok ? await response.json().catch(() => null) : null;
    player.replaceWith(el('p', { className: 'soft', text: body?.error ?? 'The video cannot be played.' }));
  });
  return player;
}

export function buildTray() {
  const tray = byId('tray');
  on('compared', () => {
    const { compared } = state;
    tray.hidden = !compared.length;
    tray.replaceChildren(
      el('p', { className: 'small', text: `${compared.length} of 4 to compare` }),
      ...compared.map((clip) => el('button', { className: 'one', title: `Remove ${clip.name}`, 'aria-label': `Remove ${clip.name}`, onclick: () => toggleCompared(clip) },
        el('img', { src: `/tiles/${clip.id}/still`, alt: clip.name }))),
      el('button', { text: 'Play in step', disabled: compared.length < 2, onclick: () => playInStep(compared) }),
      el('button', { text: 'Clear', onclick: () => { state.compared = []; emit('compared'); } }));
  });
}

export function playInStep(clips) {
  const dialog = byId('dialog');
  const kind = () => (state.mask ? 'mask' : 'scored');
  const players = clips.map((clip) => video(clip.id, kind()));
  players.forEach((player) => { player.controls = false; player.autoplay = false; });
  const [first, ...others] = players;
  const place = el('input', { type: 'range', min: 0, max: 1, step: 0.001, value: 0, 'aria-label': 'Place in the clips' });
  const play = el('button', { text: 'Pause' });
  const speed = el('select', { 'aria-label': 'Speed' }, ...[0.25, 0.5, 1].map((rate) => el('option', { value: rate, text: `${rate} ×`, selected: rate === 1 })));
  const mask = el('button', { text: 'Masks', 'aria-pressed': state.mask });
  let frame = 0;

  const follow = () => {
    const time = first.currentTime;
    for (const other of others) if (other.readyState > 1 && Math.abs(other.currentTime - Math.min(time, other.duration || time)) > DRIFT_S) other.currentTime = Math.min(time, other.duration - 0.001);
    if (first.duration && !place.matches(':active')) place.value = time / first.duration;
    frame = requestAnimationFrame(follow);
  };
  const setPlaying = (is) => {
    play.textContent = is ? 'Pause' : 'Play';
    players.forEach((player) => { if (is) player.play().catch(() => {}); else player.pause(); });
  };
  play.onclick = () => setPlaying(play.textContent === 'Play');
  place.oninput = () => players.forEach((player) => { if (player.duration) player.currentTime = Math.min(place.value * first.duration, player.duration - 0.001); });
  speed.onchange = () => players.forEach((player) => { player.playbackRate = Number(speed.value); });
  mask.onclick = () => { emit('mask'); mask.setAttribute('aria-pressed', state.mask); players.forEach((player, index) => { player.src = `/videos/${clips[index].id}/${kind()}`; }); setPlaying(true); };
  dialog.replaceChildren(
    el('div', { className: 'head' }, el('h2', { id: 'dialog-title', text: `${clips.length} clips in step` }), el('button', { className: 'close', text: '×', 'aria-label': 'Close', onclick: () => dialog.close() })),
    el('div', { className: 'players' }, ...players.map((player, index) => el('figure', {}, player, el('figcaption', { text: `${clips[index].name} · ${clips[index].caption ?? ''}` })))),
    el('div', { className: 'row' }, play, place, speed, mask));
  dialog.addEventListener('close', () => { cancelAnimationFrame(frame); players.forEach((player) => { player.pause(); player.removeAttribute('src'); player.load(); }); dialog.replaceChildren(); }, { once: true });
  dialog.showModal();
  Promise.all(players.map((player) => new Promise((ready) => { player.oncanplay = ready; setTimeout(ready, 15000); }))).then(() => { setPlaying(!state.still); follow(); });
}
