// What the tests ask of tus-js-client, the same in Node and in browsers. Everything that
// happens is told to `emit` as a plain object.

const TOLD = ['Upload-Offset', 'Upload-Length', 'Upload-Defer-Length', 'Upload-Concat',
  'X-HTTP-Method-Override']

export class Scenario {
  constructor(tus, emit) {
    this.tus = tus
    this.emit = emit
  }

  // Upload `input`; with `resume` go on with the upload that the storage of URLs has of it.
  async start(input, { resume = false, ...options }) {
    const emit = this.emit
    this.upload = new this.tus.Upload(input, {
      ...options,
      onBeforeRequest(request) {
        const headers = {}
        for (const name of TOLD) {
          const value = request.getHeader(name)
          if (value !== undefined) headers[name] = value
        }
        emit({ type: 'request', method: request.getMethod(), url: request.getURL(), headers })
      },
      onAfterResponse(request, response) {
        emit({ type: 'answer', method: request.getMethod(), status: response.getStatus() })
      },
      onError(error) {
        const status = error.originalResponse ? error.originalResponse.getStatus() : null
        emit({ type: 'error', message: String(error.message), status })
      },
      onSuccess: () => emit({ type: 'success', url: this.upload.url }),
    })
    if (resume) {
      const previous = await this.upload.findPreviousUploads()
      emit({ type: 'found', count: previous.length })
      if (previous.length > 0) this.upload.resumeFromPreviousUpload(previous[0])
    }
    this.upload.start()
  }

  // Stop the upload; `terminate`: delete it on the server too.
  async abort(terminate) {
    try {
      await this.upload.abort(terminate)
      this.emit({ type: 'aborted', url: this.upload.url })
    } catch (error) {
      this.emit({ type: 'error', message: String(error.message), status: null })
    }
  }
}
