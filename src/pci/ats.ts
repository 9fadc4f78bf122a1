// Runs in a browser.
/**
 * Address translation services and page requests (PCI Express base specification, chapter 10): what a function and the
 * translation agent on its way to memory say to each other. The function's side is in translation-cache.ts and
 * page-requester.ts; an agent is an IOMMU.
 */
import type { RequesterId } from "./dma.ts";
import type { PciFunction } from "./function.ts";
import { EXTENDED_ATS, EXTENDED_PRI } from "./ids.ts";

/** A translation: `size` bytes (a power of two, at least 4096) around the address asked for, to `physical`. */
export interface Translation {
  readonly physical: number;
  readonly size: number;
  /** Neither: there is no access. */
  readonly read: boolean;
  readonly write: boolean;
}

/** The answer to a translation request; it is refused where ATS is not allowed, or where the agent is misconfigured. */
export type TranslationCompletion = Translation | "unsupported request" | "completer abort";

export interface TranslationRequest {
  readonly pasid: number | undefined;
  readonly address: bigint;
  /** The function does not ask for write access (NW). */
  readonly noWrite: boolean;
}

/** One page that a function wants to be there. */
export interface PageRequestMessage {
  readonly pasid: number | undefined;
  /** A multiple of 4096. */
  readonly address: bigint;
  readonly read: boolean;
  readonly write: boolean;
  /** Page request group index, 9 bits. */
  readonly group: number;
  /** Completes the group. */
  readonly last: boolean;
}

/** Response codes of a page request group (10.4.2.1). */
export type PageGroupStatus = "success" | "invalid request" | "response failure";

export interface PageGroupResponse {
  readonly pasid: number | undefined;
  readonly group: number;
  readonly status: PageGroupStatus;
}

/**
 * What an agent asks a function to forget: translations of a span, `undefined` for all of the 64-bit space, of one PASID, or
 * of all and of traffic without: a message without PASID is for every translation. None is ever marked global.
 */
export interface InvalidationMessage {
  readonly pasid: number | undefined;
  readonly span: { readonly address: bigint; readonly size: bigint } | undefined;
}

/** An IOMMU, as functions that use ATS see it. */
export interface TranslationAgent {
  requestTranslation(requester: RequesterId, request: TranslationRequest): TranslationCompletion;
  /** A request with an address that {@link requestTranslation} gave. False: aborted. */
  accessTranslated(requester: RequesterId, physical: number, bytes: Uint8Array, write: boolean): boolean;
  /** Posted: the answer comes by {@link AtsRequesters.respond}, if the request completes a group. */
  requestPage(requester: RequesterId, request: PageRequestMessage): void;
}

/** Functions, as an agent sees them. */
export interface AtsRequesters {
  /**
   * `done` is called, now or later, when no access uses what was to be forgotten. False: nobody answers, and it will
   * never be called; a function that refuses has answered.
   */
  invalidate(requester: RequesterId, message: InvalidationMessage, done: () => void): boolean;
  respond(requester: RequesterId, response: PageGroupResponse): void;
}

export const ATS_CONTROL = 6;
export const ATS_ENABLE = 0x8000;
/** Smallest translation unit: 2^n pages of 4096 bytes. */
export const ATS_STU = 0x1f;

export const PRI_CONTROL = 4;
export const PRI_ENABLE = 1;
export const PRI_STATUS = 6;
export const PRI_RESPONSE_FAILURE = 1;
export const PRI_UNEXPECTED_RESPONSE = 2;
export const PRI_STOPPED = 0x100;
export const PRI_RESPONSE_NEEDS_PASID = 0x8000;
export const PRI_CAPACITY = 8;
export const PRI_ALLOCATION = 12;

/** Lets a function translate ahead, in units of at least `unit` bytes. The agent must allow it already. */
export function enableAts(member: PciFunction, unit: number): void {
  const stu = Math.log2(unit) - 12;
  member.writeConfig(member.extendedCapability(EXTENDED_ATS)! + ATS_CONTROL, 2, ATS_ENABLE | stu);
}

/** The function forgets all translations; what comes from now on is untranslated. */
export function disableAts(member: PciFunction): void {
  member.writeConfig(member.extendedCapability(EXTENDED_ATS)! + ATS_CONTROL, 2, 0);
}

/** Lets a function have `outstanding` page requests, at most what it says it can have. */
export function enablePageRequests(member: PciFunction, outstanding: number): void {
  const pri = member.extendedCapability(EXTENDED_PRI)!;
  member.writeConfig(pri + PRI_STATUS, 2, PRI_RESPONSE_FAILURE | PRI_UNEXPECTED_RESPONSE);
  member.writeConfig(pri + PRI_ALLOCATION, 4, Math.min(outstanding, member.readConfig(pri + PRI_CAPACITY, 4)));
  member.writeConfig(pri + PRI_CONTROL, 2, PRI_ENABLE);
}

/** The function asks for no more pages. */
export function disablePageRequests(member: PciFunction): void {
  member.writeConfig(member.extendedCapability(EXTENDED_PRI)! + PRI_CONTROL, 2, 0);
}
