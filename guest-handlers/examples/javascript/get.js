// A GET handler in JavaScript: cache, then log, then fill. It leaves out what
// the default one has beside that: conditions, Accept and consistency.
import { lookup, Lease } from 'tidepool:kv/cache@0.1.0';
import { read } from 'tidepool:kv/log-reader@0.1.0';

export function handle(request, cached) {
  let state = cached;
  if (state === undefined) {
    const found = lookup(undefined);
    state = found.tag === 'found' ? found.val : fill(found.val);
  }
  if (state.tag === 'deleted') throw { tag: 'not-found', val: state.val };
  if (state.tag === 'absent') throw { tag: 'not-found', val: undefined };
  const { version, value, contentType } = state.val;
  return {
    status: 200,
    version,
    cache: cached === undefined ? 'miss' : 'hit',
    contentType,
    headers: [{ name: 'x-handler', value: 'javascript' }],
    body: { tag: contentType === undefined ? 'envelope' : 'value', val: value },
  };
}

// What the log says, left in the cache where there is a lease to do so.
function fill(lease) {
  const latest = readLog();
  if (lease !== undefined) Lease.fill(lease, latest);
  return latest.state();
}

function readLog() {
  try {
    return read();
  } catch (error) {
    // What the log threw has a `payload`: a tag, and a text for the client.
    throw { tag: 'unavailable', val: error.payload?.val ?? String(error) };
  }
}
