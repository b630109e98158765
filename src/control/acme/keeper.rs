//! Keeps every name in a certificate: one order at a time, each when it is due.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use instant_acme::{Account, CertificateIdentifier};
use rustls::pki_types::CertificateDer;
use tracing::{info, warn};

use super::cache::{Cache, Pair};
use super::client::Client;
use super::order::{self, Doors, Issued, Method, OrderError};
use super::pace::{Pace, chance};
use super::subject::{Name, Present};
use super::tokens::Tokens;
use super::{Subject, Wanted, account, is_own, wanted};
use crate::config::AcmeConfig;
use crate::limits;
use crate::tls::identity::{Certificates, P256, derp_node};

pub(super) struct Keeper {
    config: AcmeConfig,
    pace: Pace,
    cache: Cache,
    client: Client,
    certificates: Certificates,
    tokens: Arc<Tokens>,
    account: Option<Account>,
    account_key: Option<P256>,
    subjects: Vec<Subject>,
    /// In the order in which they are tried. What has worked goes first.
    methods: Vec<Method>,
}

/// The longest sleep: clocks are set, machines are suspended.
const LOOK_AGAIN: Duration = Duration::from_secs(60 * 60);

impl Keeper {
    pub fn new(
        config: AcmeConfig,
        pace: Pace,
        http: bool,
        cache: Cache,
        client: Client,
        certificates: Certificates,
        tokens: Arc<Tokens>,
    ) -> Self {
        let mut methods = vec![Method::TlsAlpn01];
        if http {
            methods.push(Method::Http01);
        }
        let (account, account_key, subjects) = (None, None, Vec::new());
        Self { config, pace, cache, client, certificates, tokens, account, account_key, subjects, methods }
    }

    /// Presents what the cache holds, and says what it is going to ask for.
    pub fn begin(&mut self, listening: &[IpAddr]) -> Wanted {
        for name in self.config.hostnames.clone() {
            self.add(Name::Dns(name));
        }
        let (sender, receiver) = wanted();
        if self.config.ip_certs {
            for address in listening.iter().filter(|address| !address.is_unspecified()) {
                self.add(Name::Address(address.to_canonical()));
            }
            self.certificates.report_addresses(sender);
        }
        receiver
    }

    /// Never ends.
    pub async fn run(&mut self, mut wanted: Wanted) {
        loop {
            let now = SystemTime::now();
            let next = self.subjects.iter().enumerate().min_by_key(|(_, subject)| subject.next());
            let next = next.map(|(at, subject)| (at, subject.next().duration_since(now).unwrap_or_default()));
            match next {
                Some((at, Duration::ZERO)) => self.attend(at).await,
                _ => {
                    let pause = next.map_or(LOOK_AGAIN, |(_, wait)| wait.min(LOOK_AGAIN));
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        Some(address) = wanted.recv(), if self.config.ip_certs => self.add_address(address),
                    }
                }
            }
        }
    }

    fn add_address(&mut self, address: IpAddr) {
        let name = Name::Address(address);
        let addresses = self.subjects.iter().filter(|subject| matches!(subject.name, Name::Address(_))).count();
        let known = self.subjects.iter().any(|subject| subject.name == name);
        if !known && addresses < limits::ACME_ADDRESSES_MAX && is_own(address) {
            self.add(name);
        }
    }

    fn add(&mut self, name: Name) {
        let now = SystemTime::now();
        let mut subject = Subject::new(name, now);
        match self.cache.load(&subject.name, now) {
            Ok(Some(pair)) => {
                let life = pair.life;
                if self.present(&mut subject, pair).is_ok() {
                    subject.due = life.renewal(chance());
                    // Relays that start together do not ask for advice together.
                    subject.advice = Some(now + self.pace.advice.0.mul_f64(chance()));
                    info!(name = %subject.name, until = %date(life.end), "the certificate in the cache is in use");
                }
            }
            Ok(None) => info!(name = %subject.name, directory = self.config.directory, "asking for a certificate"),
            Err(error) => warn!(name = %subject.name, %error, "asking for a certificate: the cached one is none"),
        }
        self.subjects.push(subject);
    }

    fn present(&self, subject: &mut Subject, pair: Pair) -> Result<(), OrderError> {
        let Pair { chain, key, life } = pair;
        let leaf = chain.first().map(|leaf| leaf.to_vec()).unwrap_or_default();
        let put = self.certificates.put(&subject.name.to_string(), chain, key);
        put.map_err(|error| OrderError::Useless(error.to_string()))?;
        subject.present = Some(Present { life, leaf });
        Ok(())
    }

    async fn attend(&mut self, at: usize) {
        if SystemTime::now() < self.subjects[at].due {
            return self.advise(at).await;
        }
        let name = self.subjects[at].name.clone();
        let issued = match tokio::time::timeout(self.pace.order, self.obtain(&name)).await {
            Ok(issued) => issued,
            Err(_) => Err(OrderError::Late),
        };
        let done = issued.and_then(|issued| self.take(at, issued));
        if let Err(error) = done {
            self.put_off(at, &error);
        }
    }

    async fn obtain(&mut self, name: &Name) -> Result<Issued, OrderError> {
        let account = match &self.account {
            Some(account) => account.clone(),
            None => {
                let opened = account::open(&self.config, &self.cache, &self.client, &mut self.account_key).await;
                let opened = opened.map_err(|error| match error {
                    OrderError::Account(_) => error,
                    error => OrderError::Account(error.to_string()),
                })?;
                self.account.insert(opened).clone()
            }
        };
        let doors = Doors { certificates: &self.certificates, tokens: &self.tokens };
        let methods = match name {
            Name::Dns(_) => self.methods.clone(),
            Name::Address(_) => vec![Method::Http01],
        };
        let mut failure = None;
        for (at, method) in methods.into_iter().enumerate() {
            match order::obtain(&account, name, method, &doors).await {
                Err(error @ (OrderError::NotConvinced { .. } | OrderError::NotOffered(_))) => {
                    info!(%name, %error, "this way did not work");
                    failure = Some(error);
                }
                Ok(issued) => {
                    if matches!(name, Name::Dns(_)) {
                        self.methods.swap(0, at);
                    }
                    return Ok(issued);
                }
                Err(error) => return Err(error),
            }
        }
        Err(failure.expect("there is a method"))
    }

    fn take(&mut self, at: usize, issued: Issued) -> Result<(), OrderError> {
        let Issued { pair, key_pem, chain_pem } = issued;
        let now = SystemTime::now();
        let life = pair.life;
        let mut subject = Subject::new(self.subjects[at].name.clone(), now);
        self.present(&mut subject, pair)?;
        if let Err(error) = self.cache.store(&subject.name, &key_pem, &chain_pem) {
            warn!(%error, "the certificate is kept in memory only; make --cert-dir writable, or each start asks anew");
        }
        subject.due = life.renewal(chance()).max(now + self.pace.between);
        subject.advice = Some(now + self.pace.advice.0);
        info!(name = %subject.name, until = %date(life.end), "a new certificate is in use");
        if let Name::Address(ip) = &subject.name {
            info!("to use this relay, put into the DERP map: {}", derp_node(&ip.to_string(), None));
        }
        self.subjects[at] = subject;
        Ok(())
    }

    fn put_off(&mut self, at: usize, error: &OrderError) {
        // The directory may have moved, the account may be gone.
        self.account = None;
        let told = self.client.told_to_wait();
        let subject = &mut self.subjects[at];
        subject.failures = subject.failures.saturating_add(1);
        let wait = self.pace.after(subject.failures, told, chance());
        let due = SystemTime::now() + wait;
        subject.due = due;
        let now = SystemTime::now();
        let state = match &subject.present {
            None => "there is no certificate, and handshakes fail".to_owned(),
            Some(present) if present.life.end < now => "the certificate has expired".to_owned(),
            Some(present) => format!("the certificate is good until {}", date(present.life.end)),
        };
        warn!(name = %subject.name, %error, failures = subject.failures, again_in_s = wait.as_secs(), "{state}");
        if matches!(error, OrderError::Account(_)) {
            // It is the same for all names.
            for subject in self.subjects.iter_mut().filter(|subject| subject.due < due) {
                subject.due = due;
            }
        }
    }

    /// Whether the authority wants a certificate renewed at another time than we do. It need not have an opinion.
    async fn advise(&mut self, at: usize) {
        let (least, most) = self.pace.advice;
        let now = SystemTime::now();
        let advice = tokio::time::timeout(self.pace.order, self.ask_for_advice(at)).await.ok().flatten();
        let subject = &mut self.subjects[at];
        let Some((window, next)) = advice else {
            subject.advice = Some(now + most);
            return;
        };
        subject.advice = Some(now + next.clamp(least, most));
        let Some(present) = &subject.present else { return };
        if (window.0..=window.1).contains(&subject.due) {
            return;
        }
        subject.due = present.life.advised(window, now.max(present.life.begin + self.pace.between), chance());
        info!(name = %subject.name, at = %date(subject.due), "renewal, as the authority advises");
    }

    async fn ask_for_advice(&mut self, at: usize) -> Option<((SystemTime, SystemTime), Duration)> {
        let leaf = CertificateDer::from(self.subjects[at].present.as_ref()?.leaf.clone());
        let id = CertificateIdentifier::try_from(&leaf).ok()?;
        if self.account.is_none() {
            self.account = account::open(&self.config, &self.cache, &self.client, &mut self.account_key).await.ok();
        }
        let (advice, next) = self.account.as_ref()?.renewal_info(&id).await.ok()?;
        let window = advice.suggested_window;
        Some(((window.start.into(), window.end.into()), next))
    }
}

fn date(time: SystemTime) -> httpdate::HttpDate {
    httpdate::HttpDate::from(time)
}
