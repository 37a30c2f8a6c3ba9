/**
 * Every word the widget shows, in one table. To translate, give an element others:
 *
 *     document.querySelector("longhaul-upload").strings = {chooseFiles: "Dateien wählen"};
 *
 * `{name}` stands for a value. Where a number decides the form, the entry is an object with
 * the plural categories of the language (Intl.PluralRules), chosen by the value `count`.
 * Keys that begin with `problem.` are an error's code; other codes show the server's words.
 */
export const ENGLISH = {
  label: "Upload files",
  drop: "Drop files or folders here",
  tap: "Choose what to upload",
  chooseFiles: "Choose files",
  chooseFolder: "Choose folder",
  limit: "Up to {size} each.",
  resumable: "Uploads go on where they stopped, even after a reload.",
  reading: "Reading the folder …",

  "state.waiting": "Waiting",
  "state.running": "Uploading",
  "state.trying": "Interrupted",
  "state.paused": "Paused",
  "state.finishing": "Sent; the server is finishing it",
  "state.done": "Done",
  "state.failed": "Failed",
  "state.cancelled": "Cancelled",

  pause: "Pause",
  resume: "Resume",
  retry: "Try again",
  tryNow: "Try now",
  cancel: "Cancel",
  again: "Upload after all",
  remove: "Remove from the list",
  download: "Download",
  actionOn: "{action}: {name}",
  folderNamed: "in {folder}",

  percentOf: "{percent} of {size}",
  timeLeft: "{time} left",
  retryIn: "trying again in {time}",
  retryingNow: "trying again now",

  pauseAll: "Pause all",
  resumeAll: "Resume all",
  clearDone: "Clear finished",
  showMore: {one: "Show {count} more", other: "Show {count} more"},
  showDone: {one: "Show {count} finished file", other: "Show {count} finished files"},
  hideDone: "Hide finished files",
  fileList: "Files",
  finishedList: "Finished files",
  overall: "All files",
  filesDone: {one: "{done} of {count} file done", other: "{done} of {count} files done"},
  filesFailed: {one: "{count} failed", other: "{count} failed"},

  unfinished: {
    one: "One file was not finished. Choose it again, and it goes on where it stopped:",
    other: "{count} files were not finished. Choose them again, and they go on where they stopped:",
  },
  andMore: {one: "and {count} more", other: "and {count} more"},
  forget: "Forget them",

  tokenLabel: "Upload token",
  tokenSubmit: "Sign in",
  tokenWanted: "To upload here you need a link or a token from whoever runs this server.",
  tokenHow: "On the server, this command makes a link:",
  tokenExpired: "Your permission to upload has expired. Paste a new token; nothing is lost.",
  tokenWrong: "This token is not valid here. Copy it anew, all of it, or ask for another one.",
  tokenOther: "This token is not for uploads here. Ask for another one.",
  tokenEnded: "Your permission to upload has expired. Nothing is lost: reload this page, then choose the same files again.",
  tokenMissing: "You cannot upload here yet: the page has no permission from its application.",
  tokenRenewing: "Renewing your permission to upload …",

  noLibrary: "This server lacks a part of its upload page, Resumable.js. Whoever runs it needs npm and one command:",
  noLibraryAfter: "Then reload this page.",
  offline: "You are offline. Uploads go on by themselves once you are connected again.",
  unreachable: "The server cannot be reached. Uploads go on by themselves once it answers.",
  storageFull: "The server's disk is full. Nothing is lost: uploads go on once somebody has made room.",
  busy: "The server is busy. Uploads go on by themselves in a moment.",

  "problem.file_unreadable": "The file was changed, moved or deleted meanwhile. Remove it here and choose it again.",
  "problem.upload_too_large": "The file is too large: {size}. Up to {limit} are allowed here.",
  "problem.upload_too_large_unknown": "The file is larger than this server allows.",
  "problem.invalid_name": "The server does not take this name. Rename the file and choose it again.",
  "problem.uri_too_long": "The name with its folders is too long. Shorten it and choose the file again.",
  "problem.part_conflict": "A file of this name and size, with other content, was uploaded just now. Wait a few minutes and try again.",
  "problem.piece_too_large": "A proxy in front of the server refuses pieces of this size. Whoever runs it can raise its limit on request bodies.",
  "problem.not_found": "The server does not take uploads at this address. Whoever runs it should look at its proxy.",
  "problem.internal_error": "The server has made a mistake; its log tells more. Try again later.",
  "problem.storage_fault": "The server could not finish the file. Try again; if it fails again, its log tells whoever runs it why.",
  "problem.parts_lost": "The server has lost parts of the file. Try again, and they are sent anew.",
  "problem.unknown": "The server refuses the file ({status}): {message}",
  requestId: "Request {id}",

  "say.added": {one: "{count} file added", other: "{count} files added"},
  "say.repeated": {
    one: "{count} file is in the list already",
    other: "{count} files are in the list already",
  },
  "say.unreadable": {one: "{count} file cannot be read", other: "{count} files cannot be read"},
  "say.nothing": "Nothing to upload in there",
  "say.done": {one: "{name} is uploaded", other: "{count} files are uploaded"},
  "say.failed": "{name} failed. {problem}",
  "say.progress": "{percent} uploaded, {rest}",
  "say.allDone": "All files are uploaded",
};
