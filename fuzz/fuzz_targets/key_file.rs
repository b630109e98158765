#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| derpring_fuzz::key_file(data));
