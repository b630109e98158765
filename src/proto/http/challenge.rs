//! HTTP-01 challenges of ACME: who knows the answers.

/// Whoever asks for certificates knows what the authority will look for.
pub trait Challenges: Send + Sync {
    /// The answer to `GET http://<host>/.well-known/acme-challenge/<token>`.
    fn http01(&self, host: &str, token: &str) -> Challenge;
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Challenge {
    /// The key authorization, which is the whole body.
    Authorization(String),
    /// No certificate is ever asked for this host.
    ForeignHost,
    UnknownToken,
}
