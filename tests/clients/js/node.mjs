// tus-js-client in Node: commands come as lines of JSON on stdin, events go as such to stdout.

import { createReadStream, readFileSync } from 'node:fs'
import { PassThrough } from 'node:stream'
import { createInterface } from 'node:readline'

import * as tus from 'tus-js-client'

import { Scenario } from './scenario.mjs'

const scenario = new Scenario(tus, (event) => process.stdout.write(`${JSON.stringify(event)}\n`))

const inputs = {
  file: (path) => createReadStream(path),
  buffer: (path) => readFileSync(path),
  stream: (path) => createReadStream(path).pipe(new PassThrough()), // its length unknown
}

const commands = {
  start({ path, kind, urlStorage, options }) {
    if (urlStorage) options.urlStorage = new tus.FileUrlStorage(urlStorage)
    return scenario.start(inputs[kind](path), options)
  },
  abort: ({ terminate }) => scenario.abort(terminate),
}

for await (const line of createInterface({ input: process.stdin })) {
  const { command, ...told } = JSON.parse(line)
  await commands[command](told)
}
process.exit(0)
