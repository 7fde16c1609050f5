// Browsers start no worker from a file:// page. There, a hidden frame runs the worker's script, so that the search works without a server.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      const frame = document.createElement("iframe")
      frame.hidden = true
      document.body.append(frame)
      this.inside = frame.contentWindow
      this.inside.postMessage = (data) =>
        setTimeout(() => {
          const message = new MessageEvent("message", { data })
          this.dispatchEvent(message)
          this.onmessage?.(message)
        })
      this.ready = new Promise((loaded) => {
        const script = this.inside.document.createElement("script")
        script.src = url
        script.onload = loaded
        this.inside.document.body.append(script)
      })
    }

    postMessage(data) {
      this.ready.then(() => this.inside.dispatchEvent(new this.inside.MessageEvent("message", { data })))
    }
  }
}
