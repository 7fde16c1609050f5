// A video that is dropped on the page: which training clips drive its motion.

import { address } from './api.js';
import { byId, el, labelled } from './dom.js';

export function buildDrop() {
  addEventListener('dragover', (event) => {
    if (![...event.dataTransfer.types].includes('Files')) return;
    event.preventDefault();
    document.body.classList.add('dropping');
  });
  addEventListener('dragleave', (event) => { if (!event.relatedTarget) document.body.classList.remove('dropping'); });
  addEventListener('drop', (event) => {
    event.preventDefault();
    document.body.classList.remove('dropping');
    const [file] = event.dataTransfer.files;
    if (file) askAbout(file);
  });
}

export function chooseVideo() {
  const input = el('input', { type: 'file', accept: 'video/*', onchange: () => { if (input.files.length) askAbout(input.files[0]); } });
  input.click();
}

function askAbout(file) {
  const dialog = byId('dialog');
  const caption = el('textarea', { rows: 2, placeholder: 'What it shows. Without a caption the model is told nothing of it' });
  const note = el('p', { role: 'status', className: 'soft', text: 'The model is loaded for the answer, which may take a while. Nothing that is published changes.' });
  const go = el('button', { text: 'Ask' });
  go.onclick = async () => {
    go.disabled = true;
    note.textContent = 'Computing its gradient …';
    try {
      const response = await fetch(address('/api/ask', { name: file.name, caption: caption.value.trim() }), { method: 'POST', body: file });
      const answer = await response.json();
      if (!response.ok) throw new Error(answer.error);
      note.replaceChildren(el('a', { href: answer.page, target: '_blank', rel: 'noopener', text: 'The clips that drive its motion, and those that work against it' }));
    } catch (error) {
      note.textContent = error.message;
      go.disabled = false;
    }
  };
  dialog.replaceChildren(
    el('div', { className: 'head' }, el('h2', { id: 'dialog-title', text: `Which clips drive the motion in ${file.name}?` }), el('button', { className: 'close', text: '×', 'aria-label': 'Close', onclick: () => dialog.close() })),
    ...labelled('Caption', caption), el('p', {}, go), note);
  if (!dialog.open) dialog.showModal();
}
