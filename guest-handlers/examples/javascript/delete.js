// A DELETE handler in JavaScript.
import { delete as remove } from 'tidepool:kv/log-delete@0.1.0';

export function handle(request, incoming) {
  let receipt;
  try {
    receipt = remove(request.key, request.condition);
  } catch (error) {
    throw failure(error);
  }
  const answer = { key: request.key, timestamp: receipt.timestamp, deleted: true };
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
// names, but for one.
function failure(error) {
  const { tag, val } = error.payload ?? { tag: 'internal', val: String(error) };
  return { tag: tag === 'invalid-key' ? 'bad-request' : tag, val };
}
