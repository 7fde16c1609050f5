// Asks the viewer. Pictures have a queue of their own, so that a slow video never keeps a list waiting (browsers open six connections).

const AT_ONCE = 4;

export class Problem extends Error {}

async function answered(response) {
  const body = await response.json().catch(() => ({ error: `${response.status} ${response.statusText}` }));
  if (!response.ok) throw Object.assign(new Problem(body.error), { status: response.status });
  return body;
}

export async function ask(path, parameters = {}, signal = undefined) {
  return answered(await fetch(address(path, parameters), { signal }));
}

export async function send(path, body) {
  return answered(await fetch(path, { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body) }));
}

export function address(path, parameters = {}) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    for (const each of Array.isArray(value) ? value : [value]) query.append(name, typeof each === 'object' ? JSON.stringify(each) : each);
  }
  return query.size ? `${path}?${query}` : path;
}

const waiting = [];
let active = 0;

export function loadPicture(image, source, failed) {
  waiting.push({ image, source, failed });
  next();
}

function next() {
  while (active < AT_ONCE && waiting.length) {
    const { image, source, failed } = waiting.pop(); // the newest first: what is on the screen now
    if (!image.isConnected) continue;
    active += 1;
    const done = () => { active -= 1; next(); };
    image.onload = done;
    image.onerror = async () => {
      done();
      const response = await fetch(source).catch(() => null);
      const body = response && !response.ok ? await response.json().catch(() => null) : null;
      failed(body?.error ?? 'the picture could not be loaded');
    };
    image.src = source;
  }
}
