// @tus/server with @tus/file-store as its documentation sets it up, in as many processes
// as every other receiver has: node tus.mjs PORT DIRECTORY WORKERS
import cluster from 'node:cluster'

import { FileStore } from '@tus/file-store'
import { Server } from '@tus/server'

const [port, directory, workers] = process.argv.slice(2)

if (cluster.isPrimary) {
  for (let count = 0; count < Number(workers); count++) cluster.fork()
  cluster.on('exit', () => process.exit(1))
} else {
  const server = new Server({ path: '/files', datastore: new FileStore({ directory }) })
  server.listen({ host: '127.0.0.1', port: Number(port) })
}
