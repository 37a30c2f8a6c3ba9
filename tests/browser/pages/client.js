// What became of each file: name → the server's answer, for the test to read.
window.outcomes = {};

function succeeded(name, message) {
  window.outcomes[name] = {succeeded: true, answer: JSON.parse(message)};
}

function failed(name, message) {
  window.outcomes[name] = {succeeded: false, answer: message};
}
