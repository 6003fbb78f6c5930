// Ends a child process, and waits until it has ended: it may still write where we clean up.
export const stopped = child => {
  if (child.exitCode !== null || child.signalCode !== null) return undefined;
  const end = new Promise(resolve => child.once('exit', resolve));
  child.kill();
  return end;
};
