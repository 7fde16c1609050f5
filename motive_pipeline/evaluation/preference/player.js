// Two videos that start together, stay synchronized and start over together.

const START_WITHIN_MS = 4000; // do not wait longer: some phones load nothing before play() is called
const OUT_OF_STEP_S = 0.12;

class PairPlayer {
  // `names` are the left and the right file. `onChange` is called after every change of the state.
  constructor(names, labels, onChange) {
    this.onChange = onChange;
    this.plays = 0; // the number of times that both were shown from start to end
    this.paused = true;
    this.blocked = false; // the browser requires a click before it plays anything
    this.broken = "";
    this.urls = [];
    this.closed = false;
    this.videos = labels.map((label) => {
      const video = document.createElement("video");
      Object.assign(video, { muted: true, playsInline: true, preload: "auto", disableRemotePlayback: true, disablePictureInPicture: true });
      video.setAttribute("muted", "");
      video.setAttribute("aria-label", label);
      video.tabIndex = -1;
      video.addEventListener("ended", () => this.ended());
      video.addEventListener("timeupdate", () => this.keepInStep());
      return video;
    });
    this.ready = Promise.all(this.videos.map((video, side) => this.load(video, names[side])));
  }

  async load(video, name) {
    const address = `videos/${name}`;
    const failed = new Promise((resolve) => {
      video.addEventListener("error", () => {
        if (!this.closed) this.fail(name);
        resolve();
      });
    });
    try {
      video.src = await this.source(address);
    } catch {
      if (!this.closed) this.fail(name);
      return;
    }
    if (this.closed) return;
    video.load();
    const playable = new Promise((resolve) => {
      if (video.readyState >= 3) resolve();
      video.addEventListener("canplay", resolve, { once: true });
    });
    await Promise.race([playable, failed, new Promise((resolve) => { setTimeout(resolve, START_WITHIN_MS); })]);
  }

  // Over http, fetch the whole file first: playback cannot stall, and starting over works on servers without byte ranges.
  async source(address) {
    if (!location.protocol.startsWith("http")) return address;
    const answer = await fetch(address);
    if (!answer.ok) throw new Error(`${address}: ${answer.status}`);
    const url = URL.createObjectURL(await answer.blob());
    this.urls.push(url);
    return url;
  }

  fail(name) {
    this.broken = name;
    this.pause();
  }

  async play() {
    await this.ready;
    if (this.closed || this.broken) return;
    this.paused = false;
    try {
      await Promise.all(this.videos.filter((video) => !video.ended).map((video) => video.play()));
      this.blocked = false;
    } catch (error) {
      if (this.closed || error.name === "AbortError") return; // paused again, or the next pair is shown
      this.paused = true;
      this.blocked = true;
    }
    this.onChange();
  }

  pause() {
    this.paused = true;
    this.videos.forEach((video) => video.pause());
    this.onChange();
  }

  restart() {
    this.videos.forEach((video) => { video.currentTime = 0; });
    return this.play();
  }

  // The video that ends first waits for the other.
  ended() {
    if (this.closed || !this.videos.every((video) => video.ended)) return;
    this.plays += 1;
    if (this.loops && !this.paused) this.restart();
    else this.paused = true;
    this.onChange();
  }

  keepInStep() {
    const [left, right] = this.videos;
    if (this.paused || left.ended || right.ended || left.seeking || right.seeking) return;
    if (Math.abs(left.currentTime - right.currentTime) > OUT_OF_STEP_S) {
      const [ahead, behind] = left.currentTime > right.currentTime ? [left, right] : [right, left];
      ahead.currentTime = behind.currentTime;
    }
  }

  // Release decoders and memory, which a video element that is only dropped may keep for a long time.
  close() {
    this.closed = true;
    for (const video of this.videos) {
      video.pause();
      video.removeAttribute("src");
      video.load();
      video.remove();
    }
    this.urls.forEach((url) => URL.revokeObjectURL(url));
  }
}
