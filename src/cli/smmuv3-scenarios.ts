/**
 * What `uiommu smmuv3 record` can write down. Each scenario works on a fresh {@link Stage}; DMA after each step shows
 * whether the hardware knows what the driver did.
 *
 * Devices are PCI functions that any machine can have: bus 0, or device 0 of another bus. What faults is 4 bytes long
 * and its address a multiple of 4096 from stage 2 on, since other implementations make several records of longer ones,
 * and put the offset into the record.
 */
import { ALLOC_NEST_PARENT } from "../iommu/index.ts";
import { DATA_IPA } from "./smmuv3-guest.ts";
import type { ScenarioName } from "./smmuv3-scenario-names.ts";
import { READ, READ_WRITE, Stage } from "./smmuv3-stage.ts";

const PAGE = 4096;
const MIB = 2 ** 20;
const LARGE = 2 * MIB;

/** Two devices on bus 0, one on another bus. */
const FIRST = 0x10;
const SECOND = 0x18;
const ELSEWHERE = 0x500;
/** No device of ours. */
const STRANGER = 0x28;

const IOVA = 0x1_2340_0000;

const scenarios: Readonly<Record<ScenarioName, (stage: Stage) => void>> = {
  map(stage: Stage): void {
    const device = stage.device(FIRST);
    const domain = stage.domain();
    stage.attach(device, domain);
    stage.aborts(device, IOVA, "F_TRANSLATION");
    const pages = stage.pages(3);
    stage.map(domain, IOVA, pages, 2 * PAGE);
    stage.reads(device, IOVA, pages);
    stage.reads(device, IOVA + PAGE - 8, pages + PAGE - 8);
    stage.reads(device, IOVA, pages, PAGE);
    stage.writes(device, IOVA + 0x120, pages + 0x120);
    stage.aborts(device, IOVA + 2 * PAGE, "F_TRANSLATION", "write");
    stage.map(domain, IOVA + 2 * PAGE, pages + 2 * PAGE, PAGE, READ);
    stage.aborts(device, IOVA + 2 * PAGE, "F_PERMISSION", "write");
    stage.reads(device, IOVA + 2 * PAGE, pages + 2 * PAGE);
    const large = stage.pages(LARGE / PAGE, LARGE / PAGE);
    stage.map(domain, IOVA + LARGE, large, LARGE);
    stage.reads(device, IOVA + LARGE, large);
    stage.writes(device, IOVA + 2 * LARGE - 16, large + LARGE - 16);
    stage.aborts(device, IOVA + 2 * LARGE, "F_TRANSLATION");
    // The ends of what 48 bits can say.
    stage.map(domain, 0, pages, PAGE);
    stage.map(domain, 2 ** 48 - PAGE, pages + PAGE, PAGE);
    stage.reads(device, 0, pages);
    stage.reads(device, 2 ** 48 - 16, pages + 2 * PAGE - 16);
    stage.aborts(device, 2 ** 48, "F_TRANSLATION");
  },
  dma(stage: Stage): void {
    const [first, second, third] = [stage.device(FIRST), stage.device(SECOND), stage.device(ELSEWHERE)];
    const pages = stage.pages(3);
    for (const device of [first, second, third]) stage.reads(device, pages, pages);
    stage.aborts(STRANGER, pages, "aborted");
    stage.aborts(0x600, pages, "C_BAD_STREAMID");
    const [mine, yours] = [stage.domain(), stage.domain()];
    stage.map(mine, IOVA, pages, PAGE);
    stage.map(yours, IOVA, pages + PAGE, PAGE);
    stage.attach(first, mine);
    stage.attach(second, yours);
    stage.attach(third, stage.blocked);
    stage.writes(first, IOVA, pages, 64);
    stage.writes(second, IOVA, pages + PAGE, 64);
    stage.reads(first, IOVA, pages, 64);
    stage.reads(second, IOVA, pages + PAGE, 64);
    stage.aborts(third, IOVA, "aborted");
    stage.aborts(third, pages, "aborted", "write");
    stage.aborts(first, pages, "F_TRANSLATION");
    stage.detach(third);
    stage.reads(third, pages, pages, 64);
    stage.reads(third, pages + PAGE, pages + PAGE, 64);
  },
  unmap(stage: Stage): void {
    const device = stage.device(FIRST);
    const domain = stage.domain();
    stage.attach(device, domain);
    const pages = stage.pages(8);
    stage.map(domain, IOVA, pages, 8 * PAGE);
    for (let page = 0; page < 8; page++) stage.reads(device, IOVA + page * PAGE, pages + page * PAGE);
    stage.unmap(domain, IOVA + 2 * PAGE, PAGE);
    stage.aborts(device, IOVA + 2 * PAGE, "F_TRANSLATION");
    stage.reads(device, IOVA + PAGE, pages + PAGE);
    stage.reads(device, IOVA + 3 * PAGE, pages + 3 * PAGE);
    stage.unmap(domain, IOVA + 4 * PAGE, 3 * PAGE);
    for (let page = 4; page < 7; page++) stage.aborts(device, IOVA + page * PAGE, "F_TRANSLATION", "write");
    stage.map(domain, IOVA + 2 * PAGE, pages + 7 * PAGE, PAGE);
    stage.reads(device, IOVA + 2 * PAGE, pages + 7 * PAGE);
    const large = stage.pages(LARGE / PAGE, LARGE / PAGE);
    stage.map(domain, IOVA + LARGE, large, LARGE);
    stage.reads(device, IOVA + LARGE + 5 * PAGE, large + 5 * PAGE);
    stage.unmap(domain, IOVA + LARGE, LARGE);
    stage.aborts(device, IOVA + LARGE + 5 * PAGE, "F_TRANSLATION");
    stage.map(domain, IOVA + LARGE + 5 * PAGE, pages, PAGE);
    stage.reads(device, IOVA + LARGE + 5 * PAGE, pages);
    stage.aborts(device, IOVA + LARGE + 6 * PAGE, "F_TRANSLATION");
    stage.unmap(domain, IOVA, 4 * PAGE);
    stage.unmap(domain, IOVA + 7 * PAGE, PAGE);
    stage.aborts(device, IOVA, "F_TRANSLATION");
    stage.reads(device, IOVA + LARGE + 5 * PAGE, pages);
  },
  range(stage: Stage): void {
    const device = stage.device(FIRST);
    const domain = stage.domain();
    stage.attach(device, domain);
    // All pages to one frame: the log stays short. The size has several binary digits.
    const page = stage.pages();
    const count = 1024 + 512 + 64 + 5;
    for (let at = 0; at < count; at++) stage.map(domain, IOVA + at * PAGE, page, PAGE);
    const looked = [0, 1, 511, 512, 1023, 1024, 1535, 1536, 1599, 1600, 1604];
    for (const at of looked) stage.reads(device, IOVA + at * PAGE, page);
    stage.unmap(domain, IOVA + PAGE, (count - 2) * PAGE);
    for (const at of looked.slice(1, -1)) stage.aborts(device, IOVA + at * PAGE, "F_TRANSLATION");
    stage.reads(device, IOVA, page);
    stage.reads(device, IOVA + (count - 1) * PAGE, page);
  },
  replace(stage: Stage): void {
    const device = stage.device(FIRST);
    const pages = stage.pages(4);
    const [one, two] = [stage.domain(), stage.domain()];
    const stage2 = stage.domain(ALLOC_NEST_PARENT);
    for (const [index, domain] of [one, two, stage2].entries()) {
      stage.map(domain, IOVA, pages + (index + 1) * PAGE, PAGE);
    }
    const look = new Map([
      [stage.identity, () => stage.reads(device, pages, pages)],
      [stage.blocked, () => stage.aborts(device, pages, "aborted")],
      [one, () => stage.reads(device, IOVA, pages + PAGE)],
      [two, () => stage.reads(device, IOVA, pages + 2 * PAGE)],
      [stage2, () => stage.reads(device, IOVA, pages + 3 * PAGE)],
    ]);
    for (const from of look.keys()) {
      for (const to of look.keys()) {
        stage.attach(device, from);
        look.get(from)!();
        stage.attach(device, to);
        look.get(to)!();
      }
    }
  },
  share(stage: Stage): void {
    const devices = [stage.device(FIRST), stage.device(SECOND), stage.device(ELSEWHERE)];
    const domain = stage.domain();
    const pages = stage.pages(2);
    stage.map(domain, IOVA, pages, 2 * PAGE);
    for (const device of devices) stage.attach(device, domain);
    for (const device of devices) stage.reads(device, IOVA, pages);
    stage.writes(devices[0], IOVA + PAGE, pages + PAGE);
    stage.reads(devices[2], IOVA + PAGE, pages + PAGE);
    stage.unmap(domain, IOVA, PAGE);
    for (const device of devices) stage.aborts(device, IOVA, "F_TRANSLATION");
    stage.detach(devices[1]);
    stage.reads(devices[1], pages, pages);
    stage.reads(devices[0], IOVA + PAGE, pages + PAGE);
    stage.unmap(domain, IOVA + PAGE, PAGE);
    stage.aborts(devices[0], IOVA + PAGE, "F_TRANSLATION");
    stage.aborts(devices[2], IOVA + PAGE, "F_TRANSLATION");
  },
  stage2(stage: Stage): void {
    const [first, second] = [stage.device(FIRST), stage.device(SECOND)];
    const [mine, yours] = [stage.domain(ALLOC_NEST_PARENT), stage.domain(ALLOC_NEST_PARENT)];
    const pages = stage.pages(4);
    stage.attach(first, mine);
    stage.attach(second, yours);
    stage.map(mine, IOVA, pages, 2 * PAGE);
    stage.map(yours, IOVA, pages + 2 * PAGE, PAGE, READ);
    stage.reads(first, IOVA, pages);
    stage.writes(first, IOVA + PAGE, pages + PAGE);
    stage.reads(first, IOVA + PAGE, pages + PAGE);
    stage.aborts(second, IOVA, "F_PERMISSION", "write");
    stage.reads(second, IOVA, pages + 2 * PAGE);
    stage.aborts(second, IOVA + PAGE, "F_TRANSLATION");
    const large = stage.pages(LARGE / PAGE, LARGE / PAGE);
    stage.map(mine, IOVA + LARGE, large, LARGE);
    stage.reads(first, IOVA + LARGE + 7 * PAGE, large + 7 * PAGE);
    stage.unmap(mine, IOVA, PAGE);
    stage.unmap(mine, IOVA + LARGE, LARGE);
    stage.aborts(first, IOVA, "F_TRANSLATION");
    stage.aborts(first, IOVA + LARGE + 7 * PAGE, "F_TRANSLATION");
    stage.reads(first, IOVA + PAGE, pages + PAGE);
    stage.reads(second, IOVA, pages + 2 * PAGE);
    stage.attach(first, yours);
    stage.reads(first, IOVA, pages + 2 * PAGE);
  },
  nested(stage: Stage): void {
    const device = stage.device(FIRST);
    const parent = stage.domain(ALLOC_NEST_PARENT);
    const pages = stage.pages(4);
    stage.map(parent, DATA_IPA, pages, 3 * PAGE);
    const guest = stage.guest(device, parent, 7);
    stage.attach(device, guest.domain("nothing"));
    stage.aborts(device, DATA_IPA, "aborted");
    stage.attach(device, guest.domain("bypass"));
    stage.reads(device, DATA_IPA, pages);
    stage.aborts(device, IOVA, "F_TRANSLATION");

    guest.map(IOVA, DATA_IPA, READ_WRITE);
    guest.map(IOVA + PAGE, DATA_IPA + PAGE, READ);
    // The parent has nothing there.
    guest.map(IOVA + 2 * PAGE, DATA_IPA + 3 * PAGE, READ_WRITE);
    stage.attach(device, guest.domain("tables"));
    stage.reads(device, IOVA, pages);
    stage.writes(device, IOVA + 0x80, pages + 0x80);
    stage.aborts(device, IOVA + PAGE, "F_PERMISSION", "write");
    stage.reads(device, IOVA + PAGE, pages + PAGE);
    stage.aborts(device, IOVA + 2 * PAGE, "F_TRANSLATION");
    stage.aborts(device, IOVA + 3 * PAGE, "F_TRANSLATION", "write");

    guest.unmap(IOVA);
    stage.aborts(device, IOVA, "F_TRANSLATION");
    guest.map(IOVA, DATA_IPA + 2 * PAGE, READ_WRITE);
    stage.reads(device, IOVA, pages + 2 * PAGE);
    stage.map(parent, DATA_IPA + 3 * PAGE, pages + 3 * PAGE, PAGE);
    stage.reads(device, IOVA + 2 * PAGE, pages + 3 * PAGE);
    stage.unmap(parent, DATA_IPA + PAGE, PAGE);
    stage.aborts(device, IOVA + PAGE, "F_TRANSLATION");
    guest.enable(false);
    stage.aborts(device, IOVA, "F_TRANSLATION");
    guest.enable(true);
    stage.reads(device, IOVA, pages + 2 * PAGE);

    const other = stage.guest(device, parent, 8);
    other.map(IOVA, DATA_IPA, READ_WRITE);
    stage.attach(device, other.domain("tables"));
    stage.reads(device, IOVA, pages);
    stage.attach(device, parent);
    stage.reads(device, DATA_IPA, pages);
    stage.detach(device);
    stage.reads(device, pages, pages);
  },
  wrap(stage: Stage): void {
    const device = stage.device(FIRST);
    const domain = stage.domain();
    stage.attach(device, domain);
    const pages = stage.pages(2);
    for (let round = 0; round < 150; round++) {
      stage.map(domain, IOVA, pages + (round % 2) * PAGE, PAGE);
      if (round % 10 === 0 || round >= 145) stage.reads(device, IOVA, pages + (round % 2) * PAGE);
      stage.unmap(domain, IOVA, PAGE);
    }
    for (let event = 0; event < 140; event++) stage.aborts(device, IOVA + event * PAGE, "F_TRANSLATION");
    stage.map(domain, IOVA, pages, PAGE);
    stage.reads(device, IOVA, pages);
  },
  stop(stage: Stage): void {
    const device = stage.device(FIRST);
    const domain = stage.domain();
    const pages = stage.pages();
    stage.map(domain, IOVA, pages, PAGE);
    stage.attach(device, domain);
    stage.reads(device, IOVA, pages);
    stage.detach(device);
    stage.reads(device, pages, pages);
    stage.remove();
    stage.aborts(FIRST, pages, "aborted");
    stage.aborts(FIRST, IOVA, "aborted", "write");
  },
};

/** The log of a scenario. */
export function recordScenario(name: ScenarioName): Stage["lines"] {
  const stage = new Stage();
  scenarios[name](stage);
  return stage.lines;
}
