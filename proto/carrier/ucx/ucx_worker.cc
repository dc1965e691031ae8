#include "proto/carrier/ucx/ucx_worker.h"

#include <dlfcn.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace muond {
namespace {

struct Setting {
  const char* name;  // after UCX_
  const char* value;
  const char* why;
};
constexpr Setting kSettings[] = {
    {"KEEPALIVE_INTERVAL", "inf",
     "20 s is too slow for a step: the carrier has heartbeats of its own"},
    {"MEMTYPE_CACHE", "n", "it hooks malloc and mmap of the whole process"},
    {"WARN_INVALID_CONFIG", "n", "a list of what not to use names what may not be there"},
    {"CONN_NB", "y", "TCP: a peer that is not there must not hold up the others"},
};
constexpr const char* kTransports = "^sm,cuda_ipc";

// UCX installs handlers of SIGSEGV and its kind when it is loaded, unless the environment of the process said no.
// The process keeps the handlers that it chose itself.
void TakeBackSignals() {
  for (const int signal : {SIGILL, SIGSEGV, SIGBUS, SIGFPE}) {
    struct sigaction action {};
    if (::sigaction(signal, nullptr, &action) != 0) continue;
    Dl_info owner{};
    if (::dladdr(reinterpret_cast<void*>(action.sa_sigaction), &owner) == 0 ||
        owner.dli_fname == nullptr ||
        std::string_view(owner.dli_fname).find("libucs") == std::string_view::npos) {
      continue;
    }
    struct sigaction initial {};
    initial.sa_handler = SIG_DFL;
    ::sigaction(signal, &initial, nullptr);
  }
}

absl::StatusOr<ucp_config_t*> ReadConfig(const std::string& transports) {
  ucp_config_t* config = nullptr;
  if (const auto status = ucp_config_read(nullptr, nullptr, &config); status != UCS_OK)
    return FromUcs(status, "read UCX's configuration");
  auto set = [config](const char* name, const char* value) {
    return FromUcs(ucp_config_modify(config, name, value),
                   absl::StrCat("set UCX_", name, "=", value));
  };
  absl::Status status;
  for (const Setting& setting : kSettings) {
    if (status.ok() && std::getenv(absl::StrCat("UCX_", setting.name).c_str()) == nullptr)
      status = set(setting.name, setting.value);
  }
  if (status.ok() && !transports.empty())
    status = set("TLS", transports.c_str());
  else if (status.ok() && std::getenv("UCX_TLS") == nullptr)
    status = set("TLS", kTransports);
  if (status.ok()) return config;
  ucp_config_release(config);
  return status;
}

}  // namespace

absl::Status FromUcs(ucs_status_t status, std::string_view what) {
  if (status == UCS_OK) return absl::OkStatus();
  const std::string text = absl::StrCat(std::string(what), ": ", ucs_status_string(status));
  switch (status) {
    case UCS_ERR_CANCELED:
      return absl::CancelledError(text);
    case UCS_ERR_NO_MEMORY:
    case UCS_ERR_NO_RESOURCE:
    case UCS_ERR_EXCEEDS_LIMIT:
      return absl::ResourceExhaustedError(text);
    case UCS_ERR_INVALID_PARAM:
    case UCS_ERR_INVALID_ADDR:
      return absl::InvalidArgumentError(text);
    case UCS_ERR_UNSUPPORTED:
    case UCS_ERR_NOT_IMPLEMENTED:
      return absl::UnimplementedError(text);
    case UCS_ERR_UNREACHABLE:
    case UCS_ERR_NOT_CONNECTED:
    case UCS_ERR_CONNECTION_RESET:
    case UCS_ERR_ENDPOINT_TIMEOUT:
    case UCS_ERR_TIMED_OUT:
    case UCS_ERR_REJECTED:
    case UCS_ERR_NO_DEVICE:
    case UCS_ERR_IO_ERROR:
      return absl::UnavailableError(text);
    default:
      return absl::InternalError(text);
  }
}

absl::StatusOr<std::unique_ptr<UcxWorker>> UcxWorker::Create(const std::string& transports) {
  TakeBackSignals();
  auto config = ReadConfig(transports);
  if (!config.ok()) return config.status();
  std::unique_ptr<UcxWorker> made(new UcxWorker);
  ucp_params_t params{};
  params.field_mask = UCP_PARAM_FIELD_FEATURES | UCP_PARAM_FIELD_NAME;
  params.features =
      UCP_FEATURE_AM | UCP_FEATURE_WAKEUP;  // no RMA: peers write what we let in, where we say
  params.name = "muond";
  ucs_status_t status = ucp_init(&params, *config, &made->context_);
  ucp_config_release(*config);
  if (status != UCS_OK) return FromUcs(status, "start UCX");

  ucp_worker_params_t worker_params{};
  worker_params.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE;
  worker_params.thread_mode = UCS_THREAD_MODE_SINGLE;
  status = ucp_worker_create(made->context_, &worker_params, &made->worker_);
  if (status != UCS_OK) return FromUcs(status, "create a UCX worker");
  status = ucp_worker_get_efd(made->worker_, &made->event_descriptor_);
  if (status != UCS_OK) return FromUcs(status, "get the UCX worker's descriptor");
  made->ProbeDeviceMemory();
  return made;
}

UcxWorker::~UcxWorker() {
  if (worker_ != nullptr) ucp_worker_destroy(worker_);
  if (context_ != nullptr) ucp_cleanup(context_);
}

namespace {

// Runs the worker until the request has ended; what it ended with. For the probe alone.
ucs_status_t Finish(ucp_worker_h worker, ucs_status_ptr_t request) {
  if (request == nullptr) return UCS_OK;
  if (UCS_PTR_IS_ERR(request)) return UCS_PTR_STATUS(request);
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(2);
  ucs_status_t status;
  do {
    ucp_worker_progress(worker);
    status = ucp_request_check_status(request);
  } while (status == UCS_INPROGRESS && std::chrono::steady_clock::now() < deadline);
  ucp_request_free(request);
  return status == UCS_INPROGRESS ? UCS_ERR_TIMED_OUT : status;
}

// Bytes to `memory` of the device and back, over an endpoint to ourselves.
ucs_status_t ThereAndBack(ucp_context_h context, ucp_worker_h worker, ucp_ep_h self,
                          ucp_mem_h memory, uint64_t address, size_t size) {
  void* packed = nullptr;
  size_t packed_bytes = 0;
  ucs_status_t status = ucp_rkey_pack(context, memory, &packed, &packed_bytes);
  if (status != UCS_OK) return status;
  ucp_rkey_h rkey = nullptr;
  status = ucp_ep_rkey_unpack(self, packed, &rkey);
  ucp_rkey_buffer_release(packed);
  if (status != UCS_OK) return status;
  std::vector<uint8_t> sent(size), got(size, 0);
  for (size_t i = 0; i < size; ++i) sent[i] = static_cast<uint8_t>(i * 11 + 3);
  const ucp_request_param_t param{};
  status = Finish(worker, ucp_put_nbx(self, sent.data(), size, address, rkey, &param));
  if (status == UCS_OK) status = Finish(worker, ucp_ep_flush_nbx(self, &param));
  if (status == UCS_OK)
    status = Finish(worker, ucp_get_nbx(self, got.data(), size, address, rkey, &param));
  if (status == UCS_OK && got != sent) status = UCS_ERR_IO_ERROR;
  ucp_rkey_destroy(rkey);
  return status;
}

ucs_status_t TryDeviceMemory(ucp_context_h context, ucp_worker_h worker) {
  constexpr size_t kBytes = 65536;
  ucp_mem_map_params_t params{};
  params.field_mask = UCP_MEM_MAP_PARAM_FIELD_LENGTH | UCP_MEM_MAP_PARAM_FIELD_FLAGS |
                      UCP_MEM_MAP_PARAM_FIELD_MEMORY_TYPE;
  params.length = kBytes;
  params.flags = UCP_MEM_MAP_ALLOCATE;
  params.memory_type = UCS_MEMORY_TYPE_CUDA;
  ucp_mem_h memory = nullptr;
  ucs_status_t status = ucp_mem_map(context, &params, &memory);
  if (status != UCS_OK) return status;
  ucp_mem_attr_t attr{};
  attr.field_mask = UCP_MEM_ATTR_FIELD_ADDRESS | UCP_MEM_ATTR_FIELD_MEM_TYPE;
  status = ucp_mem_query(memory, &attr);
  if (status == UCS_OK && attr.mem_type != UCS_MEMORY_TYPE_CUDA) status = UCS_ERR_UNSUPPORTED;
  ucp_address_t* address = nullptr;
  size_t address_bytes = 0;
  if (status == UCS_OK) status = ucp_worker_get_address(worker, &address, &address_bytes);
  if (status == UCS_OK) {
    ucp_ep_params_t ep_params{};
    ep_params.field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS;
    ep_params.address = address;
    ucp_ep_h self = nullptr;
    status = ucp_ep_create(worker, &ep_params, &self);
    if (status == UCS_OK) {
      status = ThereAndBack(context, worker, self, memory, reinterpret_cast<uint64_t>(attr.address),
                            kBytes);
      const ucp_request_param_t close{};
      (void)Finish(worker, ucp_ep_close_nbx(self, &close));
    }
    ucp_worker_release_address(worker, address);
  }
  ucp_mem_unmap(context, memory);
  return status;
}

}  // namespace

void UcxWorker::ProbeDeviceMemory() {
  unsigned major = 0, minor = 0, release = 0;
  ucp_get_version(&major, &minor, &release);
  description_ = absl::StrCat("ucx ", major, ".", minor, ".", release, ", host memory");
  ucp_context_attr_t attr{};
  attr.field_mask = UCP_ATTR_FIELD_MEMORY_TYPES;
  if (ucp_context_query(context_, &attr) != UCS_OK ||
      (attr.memory_types & UCS_BIT(UCS_MEMORY_TYPE_CUDA)) == 0) {
    description_ += " (UCX has no CUDA here)";
    return;
  }
  const ucs_status_t status = TryDeviceMemory(context_, worker_);
  device_memory_ = status == UCS_OK;
  description_ +=
      device_memory_
          ? " and CUDA memory"
          : absl::StrCat(" (CUDA memory failed its test: ", ucs_status_string(status), ")");
}

}  // namespace muond
