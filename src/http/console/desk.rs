//! What the operators' pages keep for themselves: downloads under way, and what runs in the background.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::verifying::Verifying;

/// Exports at once.
const EXPORTS: usize = 2;

/// See the module.
pub(in crate::http) struct Desk {
    pub(super) exports: Arc<Semaphore>,
    pub(super) verifying: Arc<Verifying>,
}

impl Default for Desk {
    fn default() -> Self {
        Self { exports: Arc::new(Semaphore::new(EXPORTS)), verifying: Arc::default() }
    }
}
