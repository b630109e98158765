//! Our account with the authority.

use instant_acme::{Account, Error, ExternalAccountKey, Key, NewAccount};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tracing::{info, warn};

use super::cache::{Cache, CacheError};
use super::client::Client;
use super::order::{OrderError, persist};
use crate::config::AcmeConfig;
use crate::tls::identity::P256;

/// That of the key in the cache; a new one where there is none, or where the authority does not know the key.
///
/// `key` is the account's, once it is known: where the folder cannot be used, an account still lasts as long as we do.
pub(super) async fn open(
    config: &AcmeConfig,
    cache: &Cache,
    client: &Client,
    key: &mut Option<P256>,
) -> Result<Account, OrderError> {
    if key.is_none() {
        *key = match cache.account() {
            Ok(found) => found,
            Err(error @ CacheError::Useless { .. }) => return Err(OrderError::Account(error.to_string())),
            Err(error) => {
                warn!(%error, "the account's key, if there is one, cannot be used");
                None
            }
        };
    }
    if let Some(key) = key {
        match known(config, client, key).await {
            Err(Error::Api(problem)) if problem.r#type.as_deref() == Some(UNKNOWN) => {}
            known => return Ok(known?),
        }
    }
    anew(config, cache, client, key).await
}

const UNKNOWN: &str = "urn:ietf:params:acme:error:accountDoesNotExist";

async fn known(config: &AcmeConfig, client: &Client, key: &P256) -> Result<Account, Error> {
    let opened = persist!(async {
        let pair = pair(key)?;
        Account::builder_with_http(Box::new(client.clone())).from_key(pair, config.directory.clone()).await
    })?;
    Ok(opened.0)
}

async fn anew(
    config: &AcmeConfig,
    cache: &Cache,
    client: &Client,
    key: &mut Option<P256>,
) -> Result<Account, OrderError> {
    let contact = config.email.as_ref().map(|email| format!("mailto:{email}"));
    let contact: Vec<_> = contact.iter().map(String::as_str).collect();
    let builder = || Account::builder_with_http(Box::new(client.clone()));
    if let (Some(key), None) = (&key, &config.eab) {
        let created = persist!(async { builder().create_from_key(pair(key)?, config.directory.clone()).await });
        let account = created?.0;
        if !contact.is_empty() {
            persist!(account.update_contacts(&contact))?;
        }
        info!(directory = config.directory, "account made with the key that was there");
        return Ok(account);
    }
    // An account that is bound to an external one can only be made with a key of its own.
    let new = NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
    let eab = config.eab.as_ref().map(|eab| ExternalAccountKey::new(eab.kid.clone(), &eab.key));
    let (account, credentials) = persist!(builder().create(&new, config.directory.clone(), eab.as_ref()))?;
    info!(directory = config.directory, "account made");
    *key = P256::parse(credentials.private_key().secret_pkcs8_der());
    if let Some(error) = key.as_ref().and_then(|key| cache.store_account(key).err()) {
        warn!(%error, "the account's key is kept in memory only; the next start makes another account");
    }
    Ok(account)
}

fn pair(key: &P256) -> Result<(Key, PrivateKeyDer<'static>), Error> {
    let pkcs8 = PrivatePkcs8KeyDer::from(key.pkcs8().map_err(|e| Error::Other(Box::new(e)))?);
    let signing = Key::from_pkcs8_der(pkcs8.clone_key())?;
    Ok((signing, PrivateKeyDer::Pkcs8(pkcs8)))
}
