//! DERP maps: which relays a region has, and how clients reach them.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};
use serde::Deserialize;

use super::target::Url;
use super::{Cipher, Version};
use crate::error::Error;
use crate::tls::config::{self, Trust};

/// A map that takes longer is not coming.
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_MAP: u64 = 16 << 20;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Map {
    #[serde(default)]
    regions: BTreeMap<String, Option<Region>>,
}

#[derive(Debug, Deserialize)]
struct Region {
    #[serde(rename = "RegionID", default)]
    id: u64,
    #[serde(rename = "RegionCode", default)]
    code: String,
    #[serde(rename = "Nodes", default)]
    nodes: Option<Vec<Node>>,
}

/// One relay of a map.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Node {
    #[serde(rename = "Name")]
    pub name: String,
    #[serde(rename = "HostName")]
    pub host_name: String,
    /// Empty: HostName. `sha256-raw:HEX`: only this certificate. Else the name that it must have.
    #[serde(rename = "CertName")]
    pub cert_name: String,
    /// Empty: by name. Not an address: never.
    #[serde(rename = "IPv4")]
    pub ipv4: String,
    #[serde(rename = "IPv6")]
    pub ipv6: String,
    /// 0: 443.
    #[serde(rename = "DERPPort")]
    pub derp_port: u16,
    #[serde(rename = "STUNOnly")]
    pub stun_only: bool,
    /// No certificate is checked.
    #[serde(rename = "InsecureForTests")]
    pub insecure_for_tests: bool,
}

impl Node {
    pub fn port(&self) -> u16 {
        if self.derp_port == 0 { 443 } else { self.derp_port }
    }

    /// IPv4 before IPv6, an address in the map before one of the name.
    pub fn addr(&self) -> Result<SocketAddr, Error> {
        let given = [&self.ipv4, &self.ipv6].into_iter().find_map(|text| text.parse::<IpAddr>().ok());
        if let Some(ip) = given {
            return Ok(SocketAddr::new(ip, self.port()));
        }
        let failed = |source| Error::Resolve { host: self.host_name.clone(), source };
        let mut addrs: Vec<SocketAddr> = (self.host_name.as_str(), self.port())
            .to_socket_addrs()
            .map_err(failed)?
            .filter(|addr| if addr.is_ipv4() { self.ipv4.is_empty() } else { self.ipv6.is_empty() })
            .collect();
        addrs.sort_by_key(SocketAddr::is_ipv6);
        addrs.first().copied().ok_or_else(|| failed(std::io::ErrorKind::NotFound.into()))
    }
}

/// The relays of one region, by its number or code.
pub fn nodes(text: &str, region: Option<&str>) -> Result<Vec<Node>, Error> {
    let map: Map = serde_json::from_str(text).map_err(|err| Error::Usage(format!("--map is not a DERP map: {err}")))?;
    let regions: Vec<Region> = map.regions.into_values().flatten().collect();
    if regions.is_empty() {
        return Err(Error::Usage("--map has no region: is it a DERP map?".into()));
    }
    let known = || {
        let names: Vec<String> = regions.iter().map(|region| format!("{} ({})", region.id, region.code)).collect();
        names.join(", ")
    };
    let chosen = match (region, &regions[..]) {
        (Some(wanted), _) => {
            let found = regions.iter().find(|region| region.code == wanted || region.id.to_string() == wanted);
            found.ok_or_else(|| Error::Usage(format!("no region {wanted} in the map; it has {}", known())))?
        }
        (None, [one]) => one,
        (None, _) => return Err(Error::Usage(format!("name a region with --region; the map has {}", known()))),
    };
    let nodes = chosen.nodes.iter().flatten().filter(|node| !node.stun_only).cloned().collect::<Vec<_>>();
    if nodes.is_empty() {
        return Err(Error::Usage(format!("region {} ({}) has no relay in the map", chosen.id, chosen.code)));
    }
    Ok(nodes)
}

/// The text of a map in a file or at an http[s] URL.
pub fn read(place: &str, trust: Trust) -> Result<String, Error> {
    let Some(url) = Url::parse(place) else {
        return std::fs::read_to_string(place).map_err(|source| Error::File { path: place.into(), source });
    };
    let failed = |source| Error::Fetch { url: place.into(), source };
    let stream = TcpStream::connect((url.host.as_str(), url.port)).map_err(failed)?;
    stream.set_read_timeout(Some(FETCH_TIMEOUT)).map_err(failed)?;
    if !url.tls {
        return get(stream, &url).map_err(failed);
    }
    let config = config::client(trust, None, Version::V13, Cipher::Aes128)?;
    let name = ServerName::try_from(url.host.clone())
        .map_err(|_| Error::Usage(format!("--map {place}: its host is neither a name nor an address")))?;
    let conn = ClientConnection::new(Arc::clone(&config), name).map_err(|err| Error::TlsSetup(err.into()))?;
    get(StreamOwned::new(conn, stream), &url).map_err(failed)
}

/// HTTP/1.0: the answer ends with the connection, and comes in one piece.
fn get(mut stream: impl Read + Write, url: &Url) -> std::io::Result<String> {
    let bad = |text: String| std::io::Error::new(std::io::ErrorKind::InvalidData, text);
    let request = format!("GET {} HTTP/1.0\r\nHost: {}\r\nAccept: application/json\r\n\r\n", url.path, url.authority);
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    match stream.take(MAX_MAP).read_to_end(&mut answer) {
        // A server that forgets close_notify has said all the same.
        Err(err) if err.kind() == std::io::ErrorKind::UnexpectedEof && !answer.is_empty() => {}
        result => {
            result?;
        }
    }
    let answer = String::from_utf8(answer).map_err(|_| bad("the answer is not text".into()))?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| bad("the answer is not HTTP".into()))?;
    let status = head.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("200") {
        return Err(bad(format!("the answer is {status}")));
    }
    Ok(body.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAP: &str = r#"{"Regions":{
        "900":{"RegionID":900,"RegionCode":"home","RegionName":"x","Nodes":[
            {"Name":"a","RegionID":900,"HostName":"a.test","IPv4":"192.0.2.7","DERPPort":8443,"InsecureForTests":true},
            {"Name":"s","RegionID":900,"HostName":"s.test","STUNOnly":true},
            {"Name":"b","RegionID":900,"HostName":"127.0.0.1","IPv4":"none","IPv6":"2001:db8::1"}]},
        "901":{"RegionID":901,"RegionCode":"away","Nodes":null},
        "902":null}}"#;

    #[test]
    fn relays_of_a_region_by_number_or_code() {
        for region in ["900", "home"] {
            let nodes = nodes(MAP, Some(region)).unwrap();
            let names: Vec<&str> = nodes.iter().map(|node| node.name.as_str()).collect();
            assert_eq!(names, ["a", "b"]);
            assert_eq!(nodes[0].addr().unwrap().to_string(), "192.0.2.7:8443");
            assert!(nodes[0].insecure_for_tests && !nodes[1].insecure_for_tests);
            assert_eq!(nodes[1].addr().unwrap().to_string(), "[2001:db8::1]:443");
        }
    }

    #[test]
    fn a_disabled_family_is_not_used_by_name_either() {
        let node = Node { host_name: "127.0.0.1".into(), ipv4: "none".into(), ..Node::default() };
        assert!(matches!(node.addr(), Err(Error::Resolve { .. })));
        let node = Node { ipv4: String::new(), ..node };
        assert_eq!(node.addr().unwrap().to_string(), "127.0.0.1:443");
    }

    #[test]
    fn what_is_missing_is_named() {
        for (text, region, part) in [
            ("7", None, "not a DERP map"),
            ("{}", None, "no region"),
            (MAP, None, "900 (home), 901 (away)"),
            (MAP, Some("5"), "no region 5"),
            (MAP, Some("901"), "has no relay"),
        ] {
            let err = nodes(text, region).unwrap_err().to_string();
            assert!(err.contains(part), "{err}");
        }
    }
}
