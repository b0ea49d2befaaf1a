#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vm_feature_manager_fuzz::user_data(data));
