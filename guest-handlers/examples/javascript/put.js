// A PUT handler in JavaScript: stores the body as it came.
import { put } from 'tidepool:kv/log-put@0.1.0';

export function handle(request, incoming) {
  let receipt;
  try {
    receipt = put(request.key, incoming.bodyValue(), {
      contentType: incoming.header('content-type') ?? 'application/octet-stream',
      ttl: undefined,
      condition: request.condition,
    });
  } catch (error) {
    throw failure(error);
  }
  const answer = { key: request.key, timestamp: receipt.timestamp, deleted: false };
  return {
    status: 201,
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
