// A PUT handler in JavaScript: stores the body as it came.
import { key, header, bodyValue } from 'tidepool:kv/http@0.1.0';
import { put } from 'tidepool:kv/log-put@0.1.0';

export function handle(request) {
  let receipt;
  try {
    receipt = put(bodyValue(), {
      contentType: header('content-type') ?? 'application/octet-stream',
      ttl: undefined,
      condition: request.condition,
    });
  } catch (error) {
    throw failure(error);
  }
  const answer = { key: key(), timestamp: receipt.timestamp, deleted: false };
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
// names.
function failure(error) {
  return error.payload ?? { tag: 'internal', val: String(error) };
}
