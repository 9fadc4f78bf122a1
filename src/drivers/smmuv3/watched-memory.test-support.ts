/** Memory as the driver has it, with somebody who looks after each single store. */
import type { PhysicalMemory } from "../../memory/index.ts";

const CHUNK_BYTES = 2 ** 21;

/**
 * The same memory under another name: `look` is called with the physical address after each store through it. A 64-bit word
 * written in one piece is one store; so is a frame copied, which nothing can lead to yet.
 */
export function watched(memory: PhysicalMemory, look: (physical: number) => void): PhysicalMemory {
  const proxies = new Map<Uint32Array, Uint32Array>();
  const proxyOf = (words: Uint32Array | undefined, base: number): Uint32Array | undefined => {
    if (words === undefined) return undefined;
    let proxy = proxies.get(words);
    if (proxy === undefined) {
      proxy = new Proxy(words, {
        get: (target, key) => {
          const value: unknown = Reflect.get(target, key, target);
          return typeof value === "function" ? (value.bind(target) as unknown) : value;
        },
        set: (target, key, value) => {
          Reflect.set(target, key, value, target);
          look(base + Number(key) * 4);
          return true;
        },
      });
      proxies.set(words, proxy);
    }
    return proxy;
  };
  const after = <T extends unknown[]>(store: (physical: number, ...values: T) => void) => ({
    value: (physical: number, ...values: T): void => {
      store.call(memory, physical, ...values);
      look(physical);
    },
  });
  return Object.create(memory, {
    words: { value: (pa: number) => proxyOf(memory.words(pa), pa - (pa % CHUNK_BYTES)) },
    chunk: { value: (index: number) => proxyOf(memory.chunk(index), index * CHUNK_BYTES) },
    writeWord: after(memory.writeWord.bind(memory)),
    writeDoubleword: after(memory.writeDoubleword.bind(memory)),
    write: after(memory.write.bind(memory)),
    copyFrame: {
      value: (from: number, to: number) => {
        memory.copyFrame(from, to);
        look(to * 4096);
      },
    },
  }) as PhysicalMemory;
}
