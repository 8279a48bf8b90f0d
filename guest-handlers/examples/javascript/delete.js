// A DELETE handler in JavaScript.
import { key } from 'tidepool:kv/http@0.1.0';
import { delete as remove } from 'tidepool:kv/log-delete@0.1.0';

export function handle(request) {
  let receipt;
  try {
    receipt = remove(request.condition);
  } catch (error) {
    throw failure(error);
  }
  const answer = { key: key(), timestamp: receipt.timestamp, deleted: true };
  return {
    status: 200,
    version: receipt.version,
    cache: undefined,
    contentType: 'application/json',
    headers: [],
    body: { tag: 'bytes', val: new TextEncoder().encode(JSON.stringify(answer)) },
  };
}

// What the log threw, as the failure to answer with: the tags have the same
// names.
function failure(error) {
  return error.payload ?? { tag: 'internal', val: String(error) };
}
