// The policies: how each is written in Python, and what it does in a sentence.

export const POLICIES = {
  block: ["Block()", "The producer waits for this client. Nothing is dropped, so it has a producer of its own."],
  drop_oldest: ["DropOldest()", "At a full buffer the oldest event goes: the client gets the newest there is."],
  drop_newest: ["DropNewest()", "At a full buffer the arriving event goes: an old but unbroken run, then a gap."],
  sample_every: ["Sample(every=10)", "At a full buffer every tenth event gets in, until the client has caught up by half."],
  sample_interval: ["Sample(interval=0.5)", "At a full buffer one event each half second gets in, until it has caught up by half."],
  conflate: ["Conflate()", "The newest event of each of eight keys stays: a slow client still sees all current values."],
  disconnect: ["Disconnect()", "A full buffer ends the stream. The client may come back when it can keep up."],
  catch_up: ["CatchUp()", "The client reads the rest from the replay later; three seconds of it are kept."],
};

export const BUFFER = 64; // items

// What an app author writes to get it, in two halves around the policy.
export const codeBefore = (policy) => (policy === "block" ? "sse(numbers(), policy=" : "sse(feed, policy=");
export const CODE_AFTER = `, buffer=${BUFFER})`;
