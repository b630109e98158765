//! What the kernel says about this process and this machine. What it does not say is zero.

use std::fs;
use std::sync::OnceLock;

use rustix::time::{ClockId, clock_gettime};

#[derive(Clone, Copy, Debug, Default)]
pub struct Process {
    /// User and system time of all threads.
    pub cpu_ns: u64,
    pub resident_bytes: u64,
    pub virtual_bytes: u64,
    pub open_descriptors: u64,
    /// Seconds since 1970.
    pub machine_started: u64,
}

impl Process {
    pub fn read() -> Self {
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        let [virtual_bytes, resident_bytes] = memory();
        Self {
            cpu_ns: cpu.tv_sec as u64 * 1_000_000_000 + cpu.tv_nsec as u64,
            resident_bytes,
            virtual_bytes,
            open_descriptors: open_descriptors(),
            machine_started: machine_started(),
        }
    }
}

/// Resident bytes of this process now.
pub fn resident_bytes() -> u64 {
    memory()[1]
}

/// Virtual and resident bytes.
fn memory() -> [u64; 2] {
    let text = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let mut pages = text.split(' ').map(|pages| pages.parse::<u64>().unwrap_or(0));
    let page = rustix::param::page_size() as u64;
    [(); 2].map(|()| pages.next().unwrap_or(0) * page)
}

/// Linux 6.2 and later has the number at hand; before, a directory with an entry for every client is read.
fn open_descriptors() -> u64 {
    const DIR: &str = "/proc/self/fd";
    match fs::metadata(DIR) {
        Ok(dir) if dir.len() > 0 => dir.len(),
        _ => fs::read_dir(DIR).map_or(0, |entries| entries.count() as u64),
    }
}

/// By the clock at the first call: two clocks are never read at the same moment, so that later answers would waver.
fn machine_started() -> u64 {
    static AT: OnceLock<u64> = OnceLock::new();
    *AT.get_or_init(|| {
        let [since_1970, since_start] = [ClockId::Realtime, ClockId::Boottime].map(|clock| {
            let time = clock_gettime(clock);
            i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec)
        });
        u64::try_from((since_1970 - since_start) / 1_000_000_000).unwrap_or(0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_knows_this_process() {
        let before = Process::read();
        let files: Vec<_> = (0..50).map(|_| fs::File::open("/proc/self/statm").unwrap()).collect();
        // Other tests open and close some too.
        let listed = fs::read_dir("/proc/self/fd").unwrap().count() as u64;
        assert!(listed.abs_diff(open_descriptors()) < 40, "{listed} are listed, {} counted", open_descriptors());
        drop(files);
        let mut work = vec![1_u8; 64 << 20];
        for _ in 0..4 {
            work.iter_mut().for_each(|byte| *byte = byte.wrapping_mul(3));
        }
        let after = Process::read();
        assert!(after.cpu_ns > before.cpu_ns && after.resident_bytes > before.resident_bytes + (32 << 20));
        assert!(after.virtual_bytes >= after.resident_bytes);
        let boot = fs::read_to_string("/proc/stat").unwrap();
        let boot = boot.lines().find_map(|line| line.strip_prefix("btime ")).unwrap().parse::<u64>().unwrap();
        assert!(boot.abs_diff(after.machine_started) <= 2, "{boot} {}", after.machine_started);
        drop(work);
    }
}
