// What a page does with EventSource: read, and open again with ?after= when the token is used up. Runs in browsers, and
// in Node.js with the package `eventsource`.

export function read({EventSource, base, path, renew, isLast}) {
  const seen = {ids: [], prevs: [], opened: 0, reauths: 0, errors: 0, closed: 0}
  let source
  return new Promise((resolve, reject) => {
    async function open() {
      try {
        const address = new URL(path, base)
        address.searchParams.set("token", await renew())
        address.searchParams.set("after", seen.ids.at(-1) ?? "0")
        source = new EventSource(address)
      } catch (error) {
        return reject(error)
      }
      source.onopen = () => seen.opened++
      source.onmessage = event => {
        const told = JSON.parse(event.data)
        seen.ids.push(event.lastEventId)
        seen.prevs.push(told.prev)
        if (isLast(told)) {
          source.close()
          resolve(seen)
        }
      }
      source.addEventListener("reauth", () => {
        seen.reauths++
        source.close()
        open()
      })
      source.onerror = () => {
        seen.errors++
        if (source.readyState === 2) {
          seen.closed++
          setTimeout(open, 100)
        }
      }
    }
    open()
  })
}
