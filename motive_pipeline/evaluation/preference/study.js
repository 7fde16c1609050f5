// The study: the start, the pairs one after the other, and the result file. Answers stay in the browser until the file is saved.

const study = JSON.parse(document.getElementById("study").textContent);
const part = (id) => document.getElementById(id);
const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
const CHOICES = { left: part("left"), tie: part("tie"), right: part("right") };
const KEYS = { ArrowLeft: "left", ArrowDown: "tie", ArrowRight: "right" };
const invited = new URLSearchParams(location.search).get("rater") || "";
const memory = `preference study ${study.study} ${invited}`;

let state = stored() || newPerson();
let now = { turn: -1, player: null, shownAt: 0 };
let ahead = { turn: -1, player: null };

function newPerson() {
  const url = URL.createObjectURL(new Blob()); // ends with a unique id from the browser
  URL.revokeObjectURL(url);
  const rater = sha256(url).slice(0, 16);
  const number = /^[1-9]\d{0,5}$/.test(invited) ? Number(invited) - 1 : parseInt(rater.slice(0, 8), 16);
  return { rater, plan: number % Math.max(1, study.plans.length), saved: 0, votes: {} };
}

// The answers that this browser has; null without any that can be read. Another tab may have written them.
function stored() {
  try {
    return readable(localStorage.getItem(memory));
  } catch {
    return null;
  }
}

function readable(text) {
  try {
    const { rater, plan, saved, votes } = JSON.parse(text);
    if (!Number.isInteger(plan) || !study.plans[plan] || !votes) return null;
    return { rater, plan, saved: saved || 0, votes };
  } catch {
    return null;
  }
}

function keep() {
  try {
    localStorage.setItem(memory, JSON.stringify(state));
  } catch {
    part("unkept").hidden = false;
  }
}

// Take what other tabs of this browser have written. False if one of them started over as another person, whom this tab then follows.
function catchUp(theirs) {
  if (!theirs) return true;
  if (theirs.rater !== state.rater) {
    state = theirs;
    closePlayers();
    welcome();
    return false;
  }
  state = merged(state, theirs);
  return true;
}

function merged(ours, theirs) {
  const votes = { ...theirs.votes };
  for (const [turn, vote] of Object.entries(ours.votes)) votes[turn] = turn in votes ? newer(vote, votes[turn]) : vote;
  return { ...ours, saved: Math.max(ours.saved, theirs.saved), votes };
}

// Of two answers to one pair the one given later. The text decides between equal orders, so that all tabs agree.
function newer(vote, other) {
  const order = (vote.order || 0) - (other.order || 0) || (JSON.stringify(vote) > JSON.stringify(other) ? 1 : -1);
  return order > 0 ? vote : other;
}

const nextOrder = () => 1 + Math.max(0, ...Object.values(state.votes).map((vote) => vote.order || 0));

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
  if (!catchUp(stored())) return;
  state.votes[turn] = { choice, plays: player.plays, ms: Math.round(performance.now() - now.shownAt), order: nextOrder() };
  keep();
  const later = turns().findIndex((_, other) => other > turn && !(other in state.votes));
  const next = later >= 0 ? later : firstOpen();
  if (next >= 0) open(next);
  else finish();
}

function closePlayers() {
  now.player?.close();
  ahead.player?.close();
  now.player = ahead.player = null;
  ahead.turn = -1;
}

function finish() {
  closePlayers();
  summarize();
  show("end");
  say(part("outcome").textContent);
  part("save").focus();
}

function summarize() {
  const missing = turns().length - answered();
  part("outcome").textContent = missing
    ? `You have answered ${answered()} of ${turns().length} pairs. Your answers count; you can also continue.`
    : `You have answered all ${turns().length} pairs. Thank you!`;
  part("go-on").hidden = !missing;
}

// `saved` counts the files of this rater: the last one holds the answers in force. The checksum is taken of the same text as in results.py.
function result() {
  const given = turns().map((_, turn) => turn).filter((turn) => state.votes[turn]?.choice);
  const votes = given.map((turn) => {
    const { choice, plays, ms } = state.votes[turn];
    return { turn, left: names(turn)[0], right: names(turn)[1], choice, plays, ms };
  });
  const head = { format: study.format, study: study.study, rater: state.rater, plan: state.plan, saved: state.saved };
  const lines = votes.map((each) => [each.turn, each.left, each.right, each.choice, each.plays, each.ms].join(" "));
  return { ...head, votes, checksum: sha256([...Object.values(head), ...lines].join("\n")) };
}

// False if this tab now follows another person, whose answers nobody asked for.
function count() {
  if (!catchUp(stored())) return false;
  state.saved += 1;
  keep();
  summarize();
  return true;
}

function save() {
  if (!count()) return;
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
  if (!count()) return;
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
  if (!catchUp(stored())) return;
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

function redraw() {
  part("progress").value = answered();
  if (!part("start").hidden) welcome();
  if (!part("end").hidden) summarize();
  if (now.player) refresh();
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
  keep();
  welcome();
});

// Another tab has written. If it had not yet seen this tab's answers, both are written again.
addEventListener("storage", (event) => {
  if (event.key !== memory) return;
  const theirs = readable(event.newValue);
  if (!theirs || !catchUp(theirs)) return;
  if (JSON.stringify(state) !== JSON.stringify(theirs)) keep();
  redraw();
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
