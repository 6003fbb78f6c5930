//! Identity providers that speak OpenID Connect: where they are found, by which keys they sign, and what a token of
//! theirs has to say.
//!
//! An [`Issuer`] is discovered and its keys are fetched when they are needed, kept, and fetched again when they rotate;
//! how often, is bounded, whatever is asked. A [`Provider`] is an issuer that people sign in with (authorization code
//! with PKCE). Nothing is fetched from where [`crate::reach`] forbids it, no redirect is followed, and no answer is read
//! beyond a bound.

mod attempts;
mod id_token;
mod issuer;
mod provider;

pub use attempts::{Attempt, Attempts, NoAttempt, PATIENCE, Purpose};
pub use id_token::{Expected, IdToken, TokenRefused, claim};
pub use issuer::{Issuer, Metadata, Unreachable, Whom};
pub use provider::{Person, Provider, Return, SignInRefused, Started};

#[cfg(test)]
mod tests;
