#!/bin/sh
# Copies the shared libraries that programs need into a folder, but for the C library's, the driver's and CUDA's own.
# Usage: libraries.sh FOLDER PROGRAM...
set -eu
folder=$1
shift
mkdir -p "$folder"
ldd "$@" | awk '$2 == "=>" && $3 ~ /^\// {print $3}' | sort -u | while read -r library; do
  case ${library##*/} in
    libc.so.* | libm.so.* | libdl.so.* | librt.so.* | libpthread.so.* | libresolv.so.* | ld-linux* | libcuda.so.*) ;;
    libcu* | libnv*) ;;
    *) cp -L "$library" "$folder/" ;;
  esac
done
