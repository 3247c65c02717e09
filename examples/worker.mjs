// A worker in JavaScript: reports a job with steps to Headway. Node.js 20 or newer, no packages.
//
//     node worker.mjs import:42
//
// HEADWAY_URL (default http://127.0.0.1:8000) and HEADWAY_KEY say where to, and with which key (scope append).

import {setTimeout as pause} from "node:timers/promises"

const url = process.env.HEADWAY_URL ?? "http://127.0.0.1:8000"
const key = process.env.HEADWAY_KEY
const job = process.argv[2] ?? `import:${Date.now()}`
const address = new URL(`/v1/jobs/${encodeURIComponent(job)}/events`, url)

class Refused extends Error {}

// Returns when the events are on disk. Each has an id before it is sent first: however often the request is sent, because
// an answer was lost or the server was busy, each event is there once.
async function report(...events) {
  const drawn = {occurred_at: new Date().toISOString()}
  const body = JSON.stringify(events.map(event => ({event_id: crypto.randomUUID(), ...drawn, ...event})))
  const headers = {"content-type": "application/json", ...(key && {authorization: `Bearer ${key}`})}
  for (let failures = 0; ; failures++) {
    let wait = Math.min(30_000, 200 * 2 ** failures)
    try {
      const answer = await fetch(address, {
        method: "POST", headers, body, redirect: "error", signal: AbortSignal.timeout(10_000),
      })
      if (answer.ok) return await answer.json()
      const problem = await answer.json().catch(() => ({}))
      if (![429, 502, 503, 504].includes(answer.status))
        throw new Refused(`${answer.status} ${problem.code}: ${problem.detail}`)
      wait = Math.max(wait, 1000 * (Number(answer.headers.get("retry-after")) || 0))
    } catch (error) {
      if (error instanceof Refused || failures >= 20) throw error
    }
    await pause(wait * (0.5 + Math.random()))
  }
}

// Runs work as a step; tries it again when it throws. The work never waits for its progress to be sent: at most ten times
// a second the newest is sent, and what is left before the step ends.
async function step(name, tries, work) {
  for (let attempt = 1; ; attempt++) {
    const about = {step: name, attempt}
    let newest, sending
    const progress = (done, total, message) => {
      newest = {done, total, message}
      sending ??= send().finally(() => { sending = undefined })
    }
    const send = async () => {
      while (newest) {
        const data = newest
        newest = undefined
        await report({type: "step.progressed", ...about, data})
        await pause(100)
      }
    }
    await report({type: "step.started", ...about, data: {worker: `node-${process.pid}`}})
    let failure
    try {
      await work(progress, attempt)
    } catch (error) {
      failure = error
    }
    await sending
    if (!failure) return report({type: "step.completed", ...about})
    await report({type: "step.failed", ...about, data: {error: {message: failure.message, type: failure.name}}})
    if (attempt === tries) throw failure
  }
}

try {
  await report({
    type: "job.planned",
    data: {title: "Import of the day", kind: "import", steps: [{step: "fetch"}, {step: "store", label: "写入数据库", weight: 3}]},
  })

  const rows = []
  await step("fetch", 3, async (progress, attempt) => {
    rows.length = 0
    for (let n = 1; n <= 200; n++) {
      await pause(2)   // the work
      if (n === 120 && attempt === 1) throw new Error("the source hung up")
      rows.push(n * n)
      progress(n, 200, `row ${n}`)
    }
  })
  const {job: told} = await step("store", 3, async progress => {
    for (const index of rows.keys()) {
      await pause(2)
      progress(index + 1, rows.length, "正在写入")
    }
  })

  // All steps of the plan are done, so the job is: what was reported last says so.
  console.log(`${job}: ${told.status}, ${told.percent} %`)
} catch (error) {
  if (!(error instanceof Refused)) await report({type: "job.failed", data: {error: {message: error.message}}})
  console.error(`${job}: ${error.message}`)
  process.exitCode = 1
}
