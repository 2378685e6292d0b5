// The worker that all tabs share: it holds the one hub.

import { Hub } from "./hub.js";

const PATIENCE = 20_000; // ms for which it goes on when no tab can be seen

const hub = new Hub(PATIENCE);
globalThis.onconnect = ({ ports }) => hub.join(ports[0]);
