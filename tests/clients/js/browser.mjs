// tus-js-client in a browser: tests call start() and abort(), and read events.

import * as tus from 'tus-js-client'

import { Scenario } from './scenario.mjs'

window.events = []
const scenario = new Scenario(tus, (event) => window.events.push(event))

window.start = ({ kind, options }) => {
  const file = document.querySelector('#file').files[0]
  return scenario.start(kind === 'stream' ? file.stream().getReader() : file, options)
}
window.abort = ({ terminate }) => scenario.abort(terminate)
