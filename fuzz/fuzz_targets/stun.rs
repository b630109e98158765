#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| derpring_fuzz::stun(data));
