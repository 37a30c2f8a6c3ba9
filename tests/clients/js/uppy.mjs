// Uppy's Dashboard with @uppy/tus, as Uppy's documentation sets it up.

import Uppy from '@uppy/core'
import Dashboard from '@uppy/dashboard'
import Tus from '@uppy/tus'

import '@uppy/core/css/style.min.css'
import '@uppy/dashboard/css/style.min.css'

window.answers = []

window.start = (options) => {
  const uppy = new Uppy()
  window.uppy = uppy
  uppy.use(Dashboard, { inline: true, target: '#dashboard', showProgressDetails: true })
  uppy.use(Tus, {
    ...options,
    onAfterResponse(request, response) {
      window.answers.push(`${request.getMethod()} ${response.getStatus()}`)
    },
  })
  uppy.on('complete', (result) => {
    window.complete = {
      successful: result.successful.map((file) => [file.name, file.uploadURL]),
      failed: result.failed.map((file) => [file.name, file.error]),
    }
  })
}
