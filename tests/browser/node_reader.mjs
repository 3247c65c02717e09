// node node_reader.mjs PACKAGES BASE TOKENS: reads with the npm package `eventsource`, writes what it saw as JSON.
import {createRequire} from "node:module"
import {pathToFileURL} from "node:url"
import {read} from "./reader.mjs"

const [packages, base, tokens] = process.argv.slice(2)
const {EventSource} = await import(pathToFileURL(createRequire(packages + "/x.js").resolve("eventsource")))
const renew = async () => (await fetch(tokens, {method: "POST"})).text()
const seen = await read({EventSource, base, path: "/v1/stream", renew, isLast: told => told.data.message === "the end"})
process.stdout.write(JSON.stringify(seen), () => process.exit(0))
