// node redis_reader.mjs PACKAGES URL KEY COUNT: reads a log's stream with ioredis, live, and writes ids and fields as JSON.
import {createRequire} from "node:module"

const [packages, url, key, count] = process.argv.slice(2)
const Redis = createRequire(packages + "/x.js")("ioredis")
const client = new Redis(url)
const found = []
let last = "0"
while (found.length < Number(count)) {
  const answer = await client.xread("COUNT", 100, "BLOCK", 1000, "STREAMS", key, last)
  for (const [, entries] of answer ?? [])
    for (const [id, fields] of entries) {
      found.push([id, fields])
      last = id
    }
}
client.disconnect()
process.stdout.write(JSON.stringify(found), () => process.exit(0))
