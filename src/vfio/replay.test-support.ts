// Runs in a browser.
/**
 * The operations of conformance/vfio-trace.c, performed on files of ours: each takes the recorded input and gives what the
 * C program would print. Bound to a world with two edu devices.
 */
import type { File } from "../memory/index.ts";
import {
  AttachIommufdPt,
  BindIommufd,
  DetachIommufdPt,
  DeviceInfo,
  Feature,
  type Fields,
  IrqInfo,
  IrqSet,
  iommufdCommands,
  REGION_STRIDE,
  RegionInfo,
  type Struct,
  VFIO_DEVICE_ATTACH,
  VFIO_DEVICE_BIND,
  VFIO_DEVICE_DETACH,
  VFIO_DEVICE_FEATURE,
  VFIO_DEVICE_GET_INFO,
  VFIO_DEVICE_GET_IRQ_INFO,
  VFIO_DEVICE_GET_REGION_INFO,
  VFIO_DEVICE_RESET,
  VFIO_DEVICE_SET_IRQS,
} from "../uapi/index.ts";
import type { CountingEvent, Values, World } from "./world.test-support.ts";

/** One recorded line; numbers of 16 bits and more are strings. */
export interface RecordedLine {
  readonly op: string;
  readonly in: Readonly<Record<string, number | string>>;
  readonly ret: number;
  readonly out: Readonly<Record<string, number | string>>;
}

export interface Answered {
  readonly ret: number;
  readonly out: Record<string, number | string>;
}

const BAR_PAGE = 0x200000000000;

/** One recorded program: two contexts, up to four open devices, four eventfds. */
export class RecordedProgram {
  private readonly world: World;
  private readonly contexts: { fd: number; context: File }[];
  private readonly events: { fd: number; event: CountingEvent }[];
  private readonly files = new Map<number, { file: File; fd: number }>();

  constructor(world: World) {
    this.world = world;
    this.contexts = [world.openIommufd(), world.openIommufd()];
    this.events = [0, 1, 2, 3].map(() => world.addEvent());
    world.process.memory.map(256, { address: BAR_PAGE });
  }

  /** What the process's end does. */
  end(): void {
    for (const { fd } of [...this.files.values(), ...this.contexts, ...this.events]) {
      this.world.run(this.world.process.close(fd));
    }
    this.world.process.memory.unmap(BAR_PAGE, 256);
  }

  perform(line: RecordedLine): Answered {
    const input = Object.fromEntries(Object.entries(line.in).map(([name, value]) => [name, Number(value)]));
    const { ret, out } = this.operation(line, input);
    const shown = Object.entries(out).map(([name, value]) => [name, shownNumber(value)]);
    return { ret, out: Object.fromEntries(shown) };
  }

  private operation(line: RecordedLine, input: Record<string, number>): { ret: number; out: Values } {
    const { argsz, flags, pasid } = input;
    switch (line.op) {
      case "OPEN": {
        const file = this.world.open(input.dev);
        const number = Number(line.out.file);
        this.files.set(number, { file, fd: this.world.process.addFile({ kind: "ours", file }) });
        return { ret: 0, out: { file: number } };
      }
      case "CLOSE": {
        this.world.run(this.world.process.close(this.files.get(input.file)!.fd));
        this.files.delete(input.file);
        return { ret: 0, out: {} };
      }
      case "BIND": {
        // What was no iommufd was −1 or the device's own descriptor; the recording does not say which.
        const { fd: own } = this.files.get(input.file)!;
        const iommufd = input.ctx === 9 ? (line.ret === -77 ? own : -1) : this.contexts[input.ctx].fd;
        return this.device(input, VFIO_DEVICE_BIND, BindIommufd, { argsz, flags, iommufd }, (out) => ({
          id: out.out_devid,
        }));
      }
      case "ATTACH":
        return this.device(
          input,
          VFIO_DEVICE_ATTACH,
          AttachIommufdPt,
          { argsz, flags, pt_id: input.pt, pasid },
          (out) => ({
            pt: out.pt_id,
          }),
        );
      case "DETACH":
        return this.device(input, VFIO_DEVICE_DETACH, DetachIommufdPt, { argsz, flags, pasid });
      case "DEV_INFO":
        return this.device(input, VFIO_DEVICE_GET_INFO, DeviceInfo, { argsz }, (out) => ({
          pci: Number(out.flags) & 2,
          regions: out.num_regions,
          irqs: out.num_irqs,
        }));
      case "REGION_INFO":
        return this.device(input, VFIO_DEVICE_GET_REGION_INFO, RegionInfo, { argsz, index: input.index }, (out) => ({
          rw: Number(out.flags) & 3,
          size: input.index === 7 ? 0 : out.size,
        }));
      case "IRQ_INFO":
        return this.device(input, VFIO_DEVICE_GET_IRQ_INFO, IrqInfo, { argsz, index: input.index }, (out) => ({
          flags: out.flags,
          count: out.count,
        }));
      case "SET_IRQS":
        return this.setIrqs(input);
      case "RESET": {
        const { file } = this.files.get(input.file)!;
        return { ret: this.returned(file.ioctl(this.world.process, VFIO_DEVICE_RESET, 0)), out: {} };
      }
      case "FEATURE":
        return this.device(input, VFIO_DEVICE_FEATURE, Feature, { argsz, flags });
      case "CONFIG_READ":
        // The C program sizes the BAR before it reads its register.
        if (input.off === 0x10) this.access(input, 7, "write", new Uint8Array(4).fill(0xff));
        return this.readRegion(input, 7);
      case "CONFIG_WRITE":
        return this.writeRegion(input, 7, line.in.value);
      case "BAR_READ":
        return this.readRegion(input, 0);
      case "BAR_WRITE":
        return this.writeRegion(input, 0, line.in.value);
      case "IOAS_ALLOC":
        return this.iommufd(input, "IOAS_ALLOC", {}, (out) => ({ id: out.out_ioas_id }));
      case "HWPT_ALLOC":
        return this.iommufd(input, "HWPT_ALLOC", { dev_id: input.dev, pt_id: input.pt }, (out) => ({
          id: out.out_hwpt_id,
        }));
      case "DESTROY":
        return this.iommufd(input, "DESTROY", { id: input.id });
      case "IOAS_MAP": {
        const { ioas: ioas_id, len: length, iova, page } = input;
        return this.iommufd(input, "IOAS_MAP", { flags: 7, ioas_id, user_va: BAR_PAGE + page * 4096, length, iova });
      }
      case "IOAS_UNMAP": {
        const { ioas: ioas_id, len: length, iova } = input;
        return this.iommufd(input, "IOAS_UNMAP", { ioas_id, iova, length }, (out) => ({ len: out.length }));
      }
      default:
        throw new Error(`unknown operation ${line.op}`);
    }
  }

  private returned(task: ReturnType<File["ioctl"]>): number {
    const { result, errno } = this.world.outcome(task);
    return errno === 0 ? Number(result) : -errno;
  }

  private device<F extends Fields>(
    input: Record<string, number>,
    request: number,
    struct: Struct<F>,
    values: Values,
    show: (out: Record<string, number | bigint>) => Values = () => ({}),
    tail?: Uint8Array,
  ): { ret: number; out: Values } {
    const { result, errno, out } = this.world.ioctl(this.files.get(input.file)!.file, request, struct, values, tail);
    if (errno !== 0) return { ret: -errno, out: {} };
    return { ret: Number(result), out: show(out as unknown as Record<string, number | bigint>) };
  }

  private iommufd(
    input: Record<string, number>,
    name: keyof typeof iommufdCommands,
    values: Values,
    show: (out: Record<string, number | bigint>) => Values = () => ({}),
  ): { ret: number; out: Values } {
    const { number, struct } = iommufdCommands[name] as unknown as { number: number; struct: Struct<Fields> };
    const { errno, out } = this.world.ioctl(this.contexts[input.ctx].context, number, struct, values);
    return errno !== 0 ? { ret: -errno, out: {} } : { ret: 0, out: show(out as unknown as Values) };
  }

  private setIrqs(input: Record<string, number>): { ret: number; out: Values } {
    const { argsz, flags, index, start, count } = input;
    const tail = new Uint8Array(16);
    if (flags & 4) {
      const view = new DataView(tail.buffer);
      // The recording tells of the first descriptor only: whether it is −1. So many vectors are refused anyway.
      for (let at = 0; at < 4; at++) view.setInt32(at * 4, this.events[(input.event + at) % 4].fd, true);
      if (input.off) view.setInt32(0, -1, true);
    } else {
      tail.fill(input.bool);
    }
    const answer = this.device(
      input,
      VFIO_DEVICE_SET_IRQS,
      IrqSet,
      { argsz, flags, index, start, count },
      undefined,
      tail,
    );
    for (const [at, { event }] of this.events.entries()) {
      const value = event.take();
      if (value > 0n) answer.out[`e${at}`] = value;
    }
    return answer;
  }

  private access(input: Record<string, number>, region: number, how: "read" | "write", bytes: Uint8Array): number {
    const { file } = this.files.get(input.file)!;
    return this.returned(file[how]!(this.world.process, region * REGION_STRIDE + input.off, bytes));
  }

  private readRegion(input: Record<string, number>, region: number): { ret: number; out: Values } {
    const bytes = new Uint8Array(8);
    const ret = this.access(input, region, "read", bytes.subarray(0, input.size));
    return { ret, out: ret > 0 ? { value: new DataView(bytes.buffer).getBigUint64(0, true) } : {} };
  }

  private writeRegion(
    input: Record<string, number>,
    region: number,
    value: number | string,
  ): { ret: number; out: Values } {
    const bytes = new Uint8Array(8);
    new DataView(bytes.buffer).setBigUint64(0, BigInt(value), true);
    return { ret: this.access(input, region, "write", bytes.subarray(0, input.size)), out: {} };
  }
}

/** As vfio-trace.c prints numbers. */
function shownNumber(value: number | bigint): number | string {
  return value < 65536 ? Number(value) : `0x${BigInt(value).toString(16)}`;
}
