//! The cores that this process may use: those in its affinity mask, as many as its control group pays for.

use std::fs;
use std::path::{Component, Path, PathBuf};
use std::thread;

use rustix::thread::{CpuSet, sched_getaffinity};

/// What may be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cores {
    /// Numbers of the CPUs in the affinity mask, ascending. Empty when the mask cannot be read: then do not pin.
    pub cpus: Vec<usize>,
    /// How many of them are worth a busy thread each: at least one. Part of a core does not count beside a whole
    /// one: a pinned thread that is throttled holds up its clients.
    pub usable: usize,
}

/// Looks at this process.
pub fn usable() -> Cores {
    let cpus = affinity();
    let count = if cpus.is_empty() { thread::available_parallelism().map_or(1, |n| n.get()) } else { cpus.len() };
    let quota = quota(&|path| fs::read_to_string(path).ok());
    Cores { cpus, usable: whole_cores(count, quota) }
}

fn affinity() -> Vec<usize> {
    // Fails on hosts with more CPUs than the set has room for.
    let Ok(set) = sched_getaffinity(None) else {
        return Vec::new();
    };
    (0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect()
}

fn whole_cores(count: usize, quota: Option<Quota>) -> usize {
    let paid = quota.map_or(u64::MAX, |quota| quota.time / quota.period);
    count.min(usize::try_from(paid).unwrap_or(usize::MAX)).max(1)
}

/// CPU time per period, both in microseconds; the period is not zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Quota {
    time: u64,
    period: u64,
}

impl Quota {
    fn new(time: u64, period: u64) -> Option<Self> {
        (period > 0).then_some(Self { time, period })
    }

    fn tighter(self, other: Self) -> Self {
        let (a, b) =
            (u128::from(self.time) * u128::from(other.period), u128::from(other.time) * u128::from(self.period));
        if a <= b { self } else { other }
    }
}

/// The tightest quota from this process's control group up to the root; `None` when there is none. `read` gives the
/// content of a file.
fn quota(read: &dyn Fn(&Path) -> Option<String>) -> Option<Quota> {
    let groups = read(Path::new("/proc/self/cgroup"))?;
    let mounts = read(Path::new("/proc/self/mountinfo"))?;
    let mut found = Vec::new();
    for (version, path) in groups.lines().filter_map(parse_group) {
        let Some(mount) = mounts.lines().filter_map(parse_mount).find(|mount| mount.version == version) else {
            continue;
        };
        for dir in mount.directories(Path::new(path)) {
            found.extend(version.quota(&dir, read));
        }
    }
    found.into_iter().reduce(Quota::tighter)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

impl Version {
    fn quota(self, dir: &Path, read: &dyn Fn(&Path) -> Option<String>) -> Option<Quota> {
        match self {
            Self::V2 => parse_cpu_max(&read(&dir.join("cpu.max"))?),
            Self::V1 => {
                let number = |name: &str| read(&dir.join(name))?.trim().parse().ok();
                // Minus one, no limit, is no number here.
                Quota::new(number("cpu.cfs_quota_us")?, number("cpu.cfs_period_us")?)
            }
        }
    }
}

/// A line of `/proc/self/cgroup` that concerns CPU time: `0::/path` or `4:cpu,cpuacct:/path`.
fn parse_group(line: &str) -> Option<(Version, &str)> {
    let mut fields = line.splitn(3, ':');
    let (id, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
    match controllers {
        "" if id == "0" => Some((Version::V2, path)),
        _ if controllers.split(',').any(|name| name == "cpu") => Some((Version::V1, path)),
        _ => None,
    }
}

/// Where a hierarchy of control groups is mounted, and which of its groups stands at the mount point.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    version: Version,
    root: PathBuf,
    point: PathBuf,
}

/// A line of `/proc/self/mountinfo`:
/// `36 25 0:32 /root /mount/point rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct`
fn parse_mount(line: &str) -> Option<Mount> {
    let (before, after) = line.split_once(" - ")?;
    let mut before = before.split(' ').skip(3);
    let (root, point) = (before.next()?.into(), before.next()?.into());
    let mut after = after.split(' ');
    let (kind, options) = (after.next()?, after.nth(1)?);
    let version = match kind {
        "cgroup2" => Version::V2,
        "cgroup" if options.split(',').any(|option| option == "cpu") => Version::V1,
        _ => return None,
    };
    Some(Mount { version, root, point })
}

impl Mount {
    /// The directories of `group` and of every group above it, as far as they can be seen. A path above the mounted
    /// root, as inside a container that joined from elsewhere, leaves the mount point alone.
    fn directories(&self, group: &Path) -> Vec<PathBuf> {
        let below = group.strip_prefix(&self.root).unwrap_or(Path::new(""));
        let below: &Path =
            if below.components().all(|c| matches!(c, Component::Normal(_))) { below } else { Path::new("") };
        below.ancestors().map(|part| self.point.join(part)).collect()
    }
}

/// `max 100000` or `50000 100000`.
fn parse_cpu_max(text: &str) -> Option<Quota> {
    let (time, period) = text.trim().split_once(' ')?;
    Quota::new(time.parse().ok()?, period.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const V2_MOUNT: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

    #[test]
    fn a_version_2_quota_may_stand_in_any_group_above() {
        let files = |inner: &str, outer: &str| {
            quota_of(&[
                ("/proc/self/cgroup", "0::/system.slice/derpring.service\n"),
                ("/proc/self/mountinfo", V2_MOUNT),
                ("/sys/fs/cgroup/system.slice/derpring.service/cpu.max", inner),
                ("/sys/fs/cgroup/system.slice/cpu.max", outer),
            ])
        };
        assert_eq!(files("max 100000\n", "max 100000\n"), None);
        assert_eq!(files("150000 100000\n", "max 100000\n"), Quota::new(150_000, 100_000));
        assert_eq!(files("400000 100000\n", "100000 50000\n"), Quota::new(100_000, 50_000));
    }

    #[test]
    fn a_version_1_container_sees_its_own_group_at_the_mount_point() {
        let mounts = "\
            35 29 0:31 /docker/ab12 /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n\
            36 29 0:32 /docker/ab12 /sys/fs/cgroup/cpu,cpuacct ro,nosuid - cgroup cgroup rw,cpu,cpuacct\n";
        let files = |time: &str| {
            quota_of(&[
                (
                    "/proc/self/cgroup",
                    "5:memory:/docker/ab12\n4:cpu,cpuacct:/docker/ab12\n1:name=systemd:/docker/ab12\n",
                ),
                ("/proc/self/mountinfo", mounts),
                ("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", time),
                ("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
            ])
        };
        assert_eq!(files("50000\n"), Quota::new(50_000, 100_000));
        assert_eq!(files("-1\n"), None);
    }

    #[test]
    fn a_group_outside_of_the_mounted_part_leaves_the_mount_point() {
        for group in ["0::/../elsewhere\n", "0::/\n", "0::/other\n"] {
            let found = quota_of(&[
                ("/proc/self/cgroup", group),
                ("/proc/self/mountinfo", V2_MOUNT),
                ("/sys/fs/cgroup/cpu.max", "200000 100000\n"),
            ]);
            assert_eq!(found, Quota::new(200_000, 100_000), "{group}");
        }
    }

    #[test]
    fn strange_files_mean_no_quota() {
        for max in ["", "max", "1 0", "a b", "-5 100000", "99999999999999999999999 1"] {
            assert_eq!(parse_cpu_max(max), None, "{max:?}");
        }
        assert_eq!(quota_of(&[]), None);
        assert_eq!(quota_of(&[("/proc/self/cgroup", "nonsense\n0:\n"), ("/proc/self/mountinfo", "- -\n")]), None);
    }

    #[test]
    fn part_of_a_core_is_one_worker_and_no_more() {
        let cores = |count, time| whole_cores(count, Quota::new(time, 100_000));
        assert_eq!(cores(8, 50_000), 1);
        assert_eq!(cores(8, 150_000), 1);
        assert_eq!(cores(8, 400_000), 4);
        assert_eq!(cores(2, 400_000), 2);
        assert_eq!(whole_cores(8, None), 8);
    }

    #[test]
    fn this_process_has_a_core() {
        let cores = usable();
        assert!(cores.usable >= 1);
        assert!(cores.cpus.is_sorted() && cores.usable <= cores.cpus.len().max(1024));
    }

    fn quota_of(files: &[(&str, &str)]) -> Option<Quota> {
        quota(&|path| files.iter().find(|(name, _)| Path::new(name) == path).map(|(_, text)| (*text).to_owned()))
    }
}
