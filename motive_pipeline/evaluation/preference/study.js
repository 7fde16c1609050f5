// The study: the start, the pairs one after the other, and the result file. Answers stay in the browser until the file is saved.

const study = JSON.parse(document.getElementById("study").textContent);
const part = (id) => document.getElementById(id);
const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
const CHOICES = { left: part("left"), tie: part("tie"), right: part("right") };
const KEYS = { ArrowLeft: "left", ArrowDown: "tie", ArrowRight: "right" };
const invited = new URLSearchParams(location.search).get("rater") || "";
const memory = `preference study ${study.study} ${invited}`;

let state = remembered();
let now = { turn: -1, player: null, shownAt: 0 };
let ahead = { turn: -1, player: null };

function remembered() {
  try {
    const kept = JSON.parse(localStorage.getItem(memory));
    if (kept && Number.isInteger(kept.plan) && study.plans[kept.plan] && kept.votes) return kept;
  } catch { /* no readable state: start as a new rater */ }
  return newPerson();
}

function newPerson() {
  const url = URL.createObjectURL(new Blob()); // ends with a unique id from the browser
  URL.revokeObjectURL(url);
  const rater = sha256(url).slice(0, 16);
  const number = /^[1-9]\d{0,5}$/.test(invited) ? Number(invited) - 1 : parseInt(rater.slice(0, 8), 16);
  return { rater, plan: number % Math.max(1, study.plans.length), votes: {} };
}

function keep() {
  try {
    localStorage.setItem(memory, JSON.stringify(state));
  } catch {
    part("unkept").hidden = false;
  }
}

const turns = () => study.plans[state.plan] || [];
const answered = () => Object.keys(state.votes).length;
const firstOpen = () => turns().findIndex((_, turn) => !(turn in state.votes));
const names = (turn) => turns()[turn].slice(0, 2).map((number) => study.videos[number]);

function show(section) {
  for (const id of ["start", "trial", "end"]) part(id).hidden = id !== section;
}

function say(text) {
  part("live").textContent = text;
}

function open(turn) {
  now.player?.close();
  const player = ahead.turn === turn ? ahead.player : makePlayer(turn);
  if (ahead.turn !== turn) ahead.player?.close();
  ahead = { turn: -1, player: null };
  now = { turn, player, shownAt: performance.now() };
  player.videos.forEach((video, side) => part(`video-${side}`).replaceChildren(video));
  part("caption").textContent = study.captions[turns()[turn][2]];
  part("place").textContent = `Pair ${turn + 1} of ${turns().length}`;
  part("progress").value = answered();
  part("back").disabled = turn === 0;
  show("trial");
  say(`Pair ${turn + 1} of ${turns().length}. ${part("caption").textContent}`);
  if (!still) player.play();
  refresh();
  player.ready.then(() => { if (now.player === player) prepare(turn); });
}

function makePlayer(turn) {
  const player = new PairPlayer(names(turn), ["Video A", "Video B"], () => { if (now.player === player) refresh(); });
  player.loops = !still;
  return player;
}

// The next pair loads while this one is shown; at most these two are loaded.
function prepare(turn) {
  const next = turn + 1;
  if (next >= turns().length || ahead.turn === next) return;
  ahead.player?.close();
  ahead = { turn: next, player: makePlayer(next) };
}

function refresh() {
  const { player, turn } = now;
  const free = player.plays > 0 && !player.broken;
  const before = state.votes[turn]?.choice;
  for (const [choice, button] of Object.entries(CHOICES)) {
    if (button.getAttribute("aria-disabled") === "true" && free) say("You can choose now.");
    button.setAttribute("aria-disabled", String(!free));
    button.classList.toggle("chosen", before === choice);
  }
  part("skip").hidden = !player.broken;
  part("pause").firstChild.data = player.paused ? "Play" : "Pause";
  part("hint").textContent = player.broken
    ? "A video of this pair cannot be played here. Skip the pair, and tell whoever gave you this page."
    : player.blocked || (still && player.paused && !free)
      ? "Press Play."
      : free
        ? "Choose. You may watch as often as you like."
        : "Watch both to the end once, then choose.";
}

function vote(choice) {
  const { player, turn } = now;
  const allowed = choice === "skip" ? player.broken : player.plays > 0 && !player.broken;
  if (!allowed) {
    say(part("hint").textContent);
    return;
  }
  state.votes[turn] = { choice, plays: player.plays, ms: Math.round(performance.now() - now.shownAt) };
  keep();
  const later = turns().findIndex((_, other) => other > turn && !(other in state.votes));
  const next = later >= 0 ? later : firstOpen();
  if (next >= 0) open(next);
  else finish();
}

function finish() {
  now.player?.close();
  ahead.player?.close();
  now.player = ahead.player = null;
  ahead.turn = -1;
  const missing = turns().length - answered();
  part("outcome").textContent = missing
    ? `You have answered ${answered()} of ${turns().length} pairs. Your answers count; you can also continue.`
    : `You have answered all ${turns().length} pairs. Thank you!`;
  part("go-on").hidden = !missing;
  show("end");
  say(part("outcome").textContent);
  part("save").focus();
}

// The checksum is taken of the same text as in results.py.
function result() {
  const votes = turns()
    .map((_, turn) => ({ turn, left: names(turn)[0], right: names(turn)[1], ...state.votes[turn] }))
    .filter((each) => each.choice);
  const head = { format: study.format, study: study.study, rater: state.rater, plan: state.plan };
  const lines = votes.map((each) => [each.turn, each.left, each.right, each.choice, each.plays, each.ms].join(" "));
  return { ...head, votes, checksum: sha256([...Object.values(head), ...lines].join("\n")) };
}

function save() {
  const link = document.createElement("a");
  const file = new Blob([`${JSON.stringify(result(), null, 1)}\n`], { type: "application/json" });
  link.href = URL.createObjectURL(file);
  link.download = `preference-${study.study}-${state.rater}.json`;
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  say("The file is being saved.");
}

async function copy() {
  const text = part("text");
  text.hidden = false;
  text.value = JSON.stringify(result());
  text.select();
  try {
    await navigator.clipboard.writeText(text.value);
    say("Copied.");
  } catch {
    say("Copy the marked text.");
  }
}

function begin() {
  keep();
  const turn = firstOpen();
  if (turn < 0) finish();
  else {
    open(turn);
    part("place").focus();
  }
}

function welcome() {
  const some = answered() > 0;
  part("welcome-back").hidden = !some;
  part("welcome-back").textContent = `Welcome back: ${answered()} of ${turns().length} pairs are answered.`;
  part("begin").textContent = some ? "Go on" : "Start";
  part("another").hidden = !some;
  part("begin").hidden = !turns().length;
  part("nothing").hidden = turns().length > 0;
  part("progress").max = turns().length || 1;
  show("start");
}

function togglePause() {
  const { player } = now;
  if (!player.paused) player.pause();
  else if (player.videos.every((video) => video.ended)) player.restart();
  else player.play();
}

for (const [choice, button] of Object.entries(CHOICES)) button.addEventListener("click", () => vote(choice));
part("skip").addEventListener("click", () => vote("skip"));
part("pause").addEventListener("click", togglePause);
part("again").addEventListener("click", () => now.player.restart());
part("back").addEventListener("click", () => { if (now.turn > 0) open(now.turn - 1); });
part("stop").addEventListener("click", finish);
part("begin").addEventListener("click", begin);
part("go-on").addEventListener("click", begin);
part("save").addEventListener("click", save);
part("copy").addEventListener("click", copy);
part("another").addEventListener("click", () => {
  if (!confirm("The answers given on this device so far will be deleted. Has the file been saved?")) return;
  state = newPerson();
  welcome();
});

document.addEventListener("keydown", (event) => {
  if (part("trial").hidden || event.ctrlKey || event.metaKey || event.altKey) return;
  const onButton = event.target instanceof HTMLButtonElement;
  if (event.key === " " && onButton) return;
  const action = {
    " ": togglePause,
    ArrowUp: () => now.player.restart(),
    Backspace: () => part("back").click(),
  }[event.key] || (KEYS[event.key] && (() => vote(KEYS[event.key])));
  if (!action) return;
  event.preventDefault();
  if (!event.repeat) action();
});

document.addEventListener("visibilitychange", () => {
  if (!document.hidden && now.player && !now.player.paused) now.player.play();
});

welcome();
