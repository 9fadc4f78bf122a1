/**
 * The whole path in one process: ioctl → IOAS → domain → SMMUv3 driver → page table → invalidation on the hardware
 * model, and the DMA way back. One edu device is attached.
 */
import { buildMachine, LibraryClient, presets } from "../src/machine/index.ts";
import {
  AttachIommufdPt,
  BindIommufd,
  IoasAlloc,
  IoasMap,
  IoasUnmap,
  iommufdCommands,
  OPTION_HUGE_PAGES,
  OPTION_OP_GET,
  Option,
  VFIO_DEVICE_ATTACH,
  VFIO_DEVICE_BIND,
} from "../src/uapi/index.ts";
import { type Benchmark, median, middle, type Row } from "./benchmark.ts";

const { IOAS_ALLOC, IOAS_MAP, IOAS_UNMAP, OPTION } = iommufdCommands;
const STREAM = 0x8;
const PAGE = 4096n;
const MIB = 2n ** 20n;

function prepare(): { client: LibraryClient; iommu: number; ioas: number; machine: ReturnType<typeof buildMachine> } {
  const machine = buildMachine(presets["two-edu"]);
  const client = new LibraryClient(machine);
  const iommu = client.open("/dev/iommu");
  const device = client.open("/dev/vfio/devices/vfio0");
  client.ioctl(device, VFIO_DEVICE_BIND, new BindIommufd(), { argsz: 16, iommufd: iommu });
  const ioas = client.ioctl(iommu, IOAS_ALLOC.number, new IoasAlloc(), { size: 12 }).out_ioas_id;
  client.ioctl(device, VFIO_DEVICE_ATTACH, new AttachIommufdPt(), { argsz: 12, pt_id: ioas });
  return { client, iommu, ioas, machine };
}

function commands({ client, iommu, ioas }: ReturnType<typeof prepare>): {
  map: (iova: bigint, va: bigint, length: bigint) => bigint;
  unmap: (iova: bigint, length: bigint) => void;
} {
  const map = new IoasMap();
  const unmap = new IoasUnmap();
  Object.assign(map, { size: 40, ioas_id: ioas });
  Object.assign(unmap, { size: 24, ioas_id: ioas });
  return {
    /** At `iova`, or where the IOAS chooses if it is 0. */
    map(iova, va, length) {
      map.flags = iova === 0n ? 6 : 7;
      map.iova = iova;
      map.user_va = va;
      map.length = length;
      client.ioctl(iommu, IOAS_MAP.number, map);
      return map.iova;
    },
    unmap(iova, length) {
      unmap.iova = iova;
      unmap.length = length;
      client.ioctl(iommu, IOAS_UNMAP.number, unmap);
    },
  };
}

function row(what: string, nanoseconds: number, limit: number, peer?: string): Row {
  const value = nanoseconds / 1000;
  return {
    what,
    value,
    unit: "µs",
    goal: `≤ ${limit} µs`,
    met: value <= limit,
    ...(peer === undefined ? {} : { peer }),
  };
}

/** Nanoseconds for a map and its unmap, as a client does it: the structs lie in its memory, a call names them. */
function pair(setup: ReturnType<typeof prepare>, iova: bigint, va: bigint, length: bigint, repeats: number): number {
  const { client, iommu, ioas } = setup;
  const { memory } = client.process;
  const map = new IoasMap();
  Object.assign(map, { size: 40, flags: 7, ioas_id: ioas, iova, user_va: va, length });
  const unmap = new IoasUnmap();
  Object.assign(unmap, { size: 24, ioas_id: ioas, iova, length });
  const [mapAt, unmapAt] = [map, unmap].map((command) => {
    const address = memory.map(1);
    memory.write(address, command.$bytes);
    return address;
  });
  return median((count) => {
    for (let i = 0; i < count; i++) {
      client.call(iommu, IOAS_MAP.number, mapAt);
      client.call(iommu, IOAS_UNMAP.number, unmapAt);
    }
  }, repeats);
}

function pairs(): Row[] {
  const setup = prepare();
  const va = BigInt(setup.client.process.memory.map(16384, { address: 0x4000_0000 }));
  const small = pair(setup, 0x20_0000n, va, PAGE, 5000);
  commands(setup).map(0x20_1000n, va + PAGE, PAGE);
  const beside = pair(setup, 0x20_0000n, va, PAGE, 5000);
  const large = pair(setup, 0x4000_0000n, va, 64n * MIB, 200);
  return [
    row("map + unmap of 4 KiB beside another page", beside, 2, "Linux 7.2 in its mock: 0.76 µs"),
    row("map + unmap of 4 KiB in an empty address space", small, 2),
    row("map + unmap of 64 MiB of contiguous frames", large, 50, "Linux 7.2 in its mock: 630 µs"),
  ];
}

/** Maps `count` pages one by one at addresses that the IOAS chooses, then unmaps them one by one. */
function chosen(count: number): Row[] {
  const setup = prepare();
  const { map, unmap } = commands(setup);
  const { memory } = setup.client.process;
  const va = BigInt(memory.map(count, { address: 0x4000_0000 }));
  const iovas = new Array<bigint>(count).fill(0n);
  const mapAll = (): void => {
    for (let i = 0; i < count; i++) iovas[i] = map(0n, va + BigInt(i) * PAGE, PAGE);
  };
  const unmapAll = (): void => {
    for (const iova of iovas) unmap(iova, PAGE);
  };
  const maps: number[] = [];
  const pairs: number[] = [];
  const warmUp = Math.ceil(30_000 / count);
  for (let round = 0; round < warmUp + 10; round++) {
    const start = performance.now();
    mapAll();
    const between = performance.now();
    unmapAll();
    maps.push(((between - start) * 1e6) / count);
    pairs.push(((performance.now() - start) * 1e6) / count);
  }
  const [aMap, aPair] = [middle(maps.slice(warmUp)), middle(pairs.slice(warmUp))];
  const areas = `${count.toLocaleString("en")} areas`;
  const peer = count === 1000 ? "Linux 7.2: 4 µs" : "Linux 7.2: 52 µs";
  return [
    row(`map at a chosen address, ${areas}`, aMap, 3, peer),
    { what: `map + unmap at a chosen address, ${areas}`, value: aPair / 1000, unit: "µs" },
  ];
}

function option(): Row {
  const { client, iommu, ioas } = prepare();
  const command = new Option();
  Object.assign(command, { size: 24, option_id: OPTION_HUGE_PAGES, op: OPTION_OP_GET, object_id: ioas });
  const time = median((repeats) => {
    for (let i = 0; i < repeats; i++) client.ioctl(iommu, OPTION.number, command);
  }, 5000);
  return { what: "OPTION get, in process", value: time, unit: "ns" };
}

function dma(): Row {
  const setup = prepare();
  const { map } = commands(setup);
  const va = BigInt(setup.client.process.memory.map(512, { address: 0x4000_0000 }));
  map(0x20_0000n, va, 512n * PAGE);
  const { hardware } = setup.machine.iommus[0];
  const bytes = new Uint8Array(64);
  const { system } = setup.machine;
  const time = median((repeats) => {
    for (let i = 0; i < repeats; i++) {
      system.run("dma", hardware.access(STREAM, undefined, 0x20_0000n + BigInt(i % 512) * PAGE, bytes, false));
    }
  }, 5000);
  return { what: "DMA read of 64 bytes through the SMMUv3", value: time, unit: "ns" };
}

const benchmark: Benchmark = {
  name: "system",
  rows: () => [...pairs(), ...chosen(1000), ...chosen(10_000), option(), dma()],
};
export default benchmark;
