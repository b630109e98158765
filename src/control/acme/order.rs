//! One order: challenges are shown, the authority looks, a certificate comes back.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use instant_acme::{
    Account, AuthorizationStatus, ChallengeType, Error, NewOrder, Order, OrderStatus, Problem, RetryPolicy,
};
use rcgen::{CertificateParams, DistinguishedName};

use super::cache::Pair;
use super::subject::Name;
use super::tokens::{OpenToken, Tokens};
use crate::limits;
use crate::tls::identity::{Certificates, IdentityError, OpenChallenge, P256};

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub(super) enum OrderError {
    #[error("the account cannot be used: {0}")]
    Account(String),
    /// The authority's, or the way's to it.
    #[error("{}", text(.0))]
    Authority(#[from] Error),
    #[error("the authority does not offer {0}")]
    NotOffered(Method),
    /// Mostly that it did not reach us.
    #[error("the authority is not convinced by {method}: {problem}")]
    NotConvinced { method: Method, problem: String },
    #[error("the authority's certificate cannot be used: {0}")]
    Useless(String),
    #[error("no end within {} s", limits::ACME_ORDER.as_secs())]
    Late,
    #[error(transparent)]
    Ours(#[from] IdentityError),
}

/// How an authority can be shown that a name is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    TlsAlpn01,
    Http01,
}

impl Method {
    fn kind(self) -> ChallengeType {
        match self {
            Self::TlsAlpn01 => ChallengeType::TlsAlpn01,
            Self::Http01 => ChallengeType::Http01,
        }
    }
}

impl std::fmt::Display for Method {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::TlsAlpn01 => "TLS-ALPN-01 (port 443)",
            Self::Http01 => "HTTP-01 (port 80)",
        })
    }
}

/// Makes a request again while the authority only dislikes its nonce: it may, any number of times (RFC 8555, 6.5).
macro_rules! persist {
    ($call:expr) => {{
        let mut left = $crate::limits::ACME_NONCES;
        loop {
            match $call.await {
                Err(error) if left > 0 && $crate::control::acme::order::is_bad_nonce(&error) => left -= 1,
                other => break other,
            }
        }
    }};
}
pub(super) use persist;

pub(super) fn is_bad_nonce(error: &Error) -> bool {
    matches!(error, Error::Api(problem) if problem.r#type.as_deref() == Some("urn:ietf:params:acme:error:badNonce"))
}

/// A certificate that the authority has just issued.
pub(super) struct Issued {
    pub pair: Pair,
    pub key_pem: String,
    pub chain_pem: String,
}

/// Where challenges are shown.
pub(super) struct Doors<'a> {
    pub certificates: &'a Certificates,
    pub tokens: &'a Arc<Tokens>,
}

pub(super) async fn obtain(
    account: &Account,
    name: &Name,
    method: Method,
    doors: &Doors<'_>,
) -> Result<Issued, OrderError> {
    let identifiers = [name.identifier()];
    let wanted = NewOrder::new(&identifiers);
    let wanted = match name.profile() {
        Some(profile) => wanted.profile(profile),
        None => wanted,
    };
    let mut order = persist!(account.new_order(&wanted))?;
    // Shown until the authority has made up its mind.
    let shown = show(&mut order, name, method, doors).await?;
    if !shown.is_empty() {
        // An order that failed is reported as an error of its own, which says less than the challenge.
        let polled = persist!(order.poll_ready(&POLL));
        if order.state().status == OrderStatus::Invalid {
            let problem = why(&mut order, method).await;
            return Err(OrderError::NotConvinced { method, problem });
        }
        polled?;
    }
    drop(shown);

    let key = P256::generate()?;
    let useless = |e: rcgen::Error| OrderError::Useless(e.to_string());
    let mut params = CertificateParams::new(vec![name.to_string()]).map_err(useless)?;
    params.distinguished_name = DistinguishedName::new();
    let request = params.serialize_request(&key.signer()?).map_err(useless)?;
    persist!(order.finalize_csr(request.der()))?;
    let chain_pem = persist!(order.poll_certificate(&POLL))?;
    let key_pem = key.pem()?;
    let pair = Pair::parse(key_pem.as_bytes(), chain_pem.as_bytes(), name, SystemTime::now() + CLOCKS_DIFFER);
    Ok(Issued { pair: pair.map_err(OrderError::Useless)?, key_pem, chain_pem })
}

/// How often an authority that says nothing of it is asked how far it is.
const POLL: RetryPolicy =
    RetryPolicy::new().initial_delay(Duration::from_millis(500)).backoff(1.5).timeout(limits::ACME_ORDER);

/// A new certificate may begin a moment in our future.
const CLOCKS_DIFFER: Duration = Duration::from_secs(5);

enum Shown {
    Token { _open: OpenToken },
    Certificate { _open: OpenChallenge },
}

/// Empty when the authority is convinced already.
async fn show(order: &mut Order, name: &Name, method: Method, doors: &Doors<'_>) -> Result<Vec<Shown>, OrderError> {
    fetch(order).await?;
    let mut shown = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        match authorization.status {
            AuthorizationStatus::Valid => continue,
            AuthorizationStatus::Pending => {}
            status => return Err(OrderError::NotConvinced { method, problem: format!("authorization is {status:?}") }),
        }
        let mut challenge = authorization.challenge(method.kind()).ok_or(OrderError::NotOffered(method))?;
        let answer = challenge.key_authorization();
        shown.push(match method {
            Method::Http01 => Shown::Token { _open: doors.tokens.open(&challenge.token, answer.as_str()) },
            Method::TlsAlpn01 => {
                let mut digest = [0; 32];
                digest.copy_from_slice(answer.digest().as_ref());
                Shown::Certificate { _open: doors.certificates.open_challenge(&name.to_string(), &digest)? }
            }
        });
        persist!(challenge.set_ready())?;
    }
    Ok(shown)
}

/// Authorizations that are here already are not fetched again, so that this can be tried until all are.
async fn fetch(order: &mut Order) -> Result<(), Error> {
    persist!(async {
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            authorization?;
        }
        Ok::<(), Error>(())
    })
}

/// What the authority holds against us; it says so at the challenge.
async fn why(order: &mut Order, method: Method) -> String {
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        if persist!(authorization.refresh()).map(drop).is_err() {
            continue;
        }
        let tried = authorization.challenges.iter().find(|challenge| challenge.r#type == method.kind());
        if let Some(problem) = tried.and_then(|challenge| challenge.error.as_ref()) {
            return problem_text(problem);
        }
    }
    "it does not say why".to_owned()
}

fn text(error: &Error) -> String {
    match error {
        Error::Api(problem) => format!("the authority refuses: {}", problem_text(problem)),
        Error::Other(error) => {
            // Hyper says little itself; what happened stands behind it.
            let mut text = error.to_string();
            let mut behind = error.source();
            while let Some(cause) = behind {
                text = format!("{text}: {cause}");
                behind = cause.source();
            }
            format!("the authority cannot be asked: {text}")
        }
        error => format!("the authority cannot be asked: {error}"),
    }
}

/// Somebody else's words go to the log in a bounded form, and on one line.
fn problem_text(problem: &Problem) -> String {
    const MOST: usize = 500;
    let kind = problem.r#type.as_deref().unwrap_or("no type").trim_start_matches("urn:ietf:params:acme:error:");
    let subproblems = problem.subproblems.iter().filter_map(|sub| sub.detail.as_deref());
    let detail: Vec<_> = problem.detail.as_deref().into_iter().chain(subproblems).collect();
    let text = format!("{} ({kind})", detail.join("; "));
    text.chars().take(MOST).map(|c| if c.is_control() { ' ' } else { c }).collect()
}
