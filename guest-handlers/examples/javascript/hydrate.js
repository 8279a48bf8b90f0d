// A hydrate handler in JavaScript with a policy: large values are not kept,
// unless the cache has the key already.
const LARGE = 64 * 1024;

export function handle(changes) {
  return changes.map((change) => (change.size > LARGE ? 'refresh' : 'store'));
}
