// Runs in a browser.
import { EXPRESS_FLAGS, EXPRESS_LINK_CAPABILITIES, EXPRESS_LINK_STATUS, EXPRESS_TYPE } from "./capabilities.ts";
import type { PciFunction } from "./function.ts";
import { CAPABILITY_EXPRESS } from "./ids.ts";

const SPEEDS = ["2.5", "5.0", "8.0", "16.0", "32.0", "64.0"];

/**
 * What sysfs says of the link above a PCI Express function, by the names of its files; nothing of a conventional one. An endpoint
 * of the root complex has no link: Linux then says what it makes of registers that are not there.
 */
export function linkTexts(member: PciFunction): Record<string, string> {
  const express = member.capability(CAPABILITY_EXPRESS);
  if (express === undefined) return {};
  const type = (member.readConfig(express + EXPRESS_FLAGS, 2) >>> 4) & 0xf;
  const hasLink = type !== EXPRESS_TYPE.integratedEndpoint;
  const most = hasLink ? member.readConfig(express + EXPRESS_LINK_CAPABILITIES, 4) : 0xff0;
  const now = hasLink ? member.readConfig(express + EXPRESS_LINK_STATUS, 2) : 0;
  return {
    max_link_speed: speed(most),
    max_link_width: `${(most >>> 4) & 0xff}`,
    current_link_speed: speed(now),
    current_link_width: `${(now >>> 4) & 0x3f}`,
  };
}

/** The lowest four bits of both registers. */
function speed(register: number): string {
  const name = SPEEDS[(register & 0xf) - 1];
  return name === undefined ? "Unknown" : `${name} GT/s PCIe`;
}
