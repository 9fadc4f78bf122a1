// Runs in a browser.
export { MockBus } from "./bus.ts";
export { type MockDeviceState, mockStateOf } from "./device-state.ts";
export { MockPagingDomain } from "./domain.ts";
export { isMockDevice, MockDriver, type MockInstance } from "./driver.ts";
export { MockNestedDomain } from "./nested.ts";
export { reportMockEvent } from "./viommu.ts";
