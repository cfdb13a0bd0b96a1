// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Permit.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {Address} from "@openzeppelin/contracts/utils/Address.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {MessageHashUtils} from "@openzeppelin/contracts/utils/cryptography/MessageHashUtils.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";
import {IChannelEscrow} from "./IChannelEscrow.sol";
import {IReceiveWithAuthorization} from "./IReceiveWithAuthorization.sol";

/// @title ChannelEscrow
/// @notice See {IChannelEscrow} for what each call does.
/// @dev Every call checks, then writes the channel's state, then moves money. There is no owner, no upgrade and no
/// constructor argument. The EIP-712 domain is computed at each use from `block.chainid` and this address instead of
/// inherited from OpenZeppelin's EIP712, which keeps them as immutables: without immutables the deployed code is the
/// same on every chain and can be compared byte for byte.
contract ChannelEscrow is IChannelEscrow, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;

    /// @inheritdoc IChannelEscrow
    uint256 public constant CLOSE_GRACE_PERIOD = 15 minutes;

    bytes32 private constant DOMAIN_TYPEHASH =
        keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)");
    bytes32 private constant NAME_HASH = keccak256("EVM Payment Channel");
    bytes32 private constant VERSION_HASH = keccak256("1");
    bytes32 private constant VOUCHER_TYPEHASH = keccak256("Voucher(bytes32 channelId,uint128 cumulativeAmount)");
    bytes32 private constant SETTLE_TYPEHASH = keccak256(
        "SettleAuthorization(bytes32 channelId,uint128 cumulativeAmount,uint128 captureAmount,uint256 nonce,uint256 deadline)"
    );
    bytes32 private constant CLOSE_TYPEHASH = keccak256(
        "CloseAuthorization(bytes32 channelId,uint128 cumulativeAmount,uint128 captureAmount,uint256 nonce,uint256 deadline)"
    );

    mapping(bytes32 channelId => ChannelState) private _channels;
    mapping(bytes32 channelId => mapping(uint256 nonce => bool)) private _usedNonces;

    /// @dev Around the pull of an ERC-20: exactly `amount` must arrive, whatever the token claims.
    modifier mustReceive(address token, uint256 amount) {
        if (token == address(0)) revert InvalidToken(token);
        uint256 balanceBefore = IERC20(token).balanceOf(address(this));
        _;
        uint256 received = IERC20(token).balanceOf(address(this)) - balanceBefore;
        if (received != amount) revert DepositNotReceived(token, received, amount);
    }

    /// @inheritdoc IChannelEscrow
    function open(address payee, address token, uint128 deposit, bytes32 salt, address authorizedSigner)
        external
        payable
        nonReentrant
        returns (bytes32 channelId)
    {
        channelId = _open(msg.sender, payee, token, deposit, salt, authorizedSigner);
        _collect(token, deposit);
    }

    /// @inheritdoc IChannelEscrow
    function openWithAuthorization(
        address payee,
        address token,
        uint128 deposit,
        bytes32 salt,
        address authorizedSigner,
        address from,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        bytes calldata signature
    ) external nonReentrant mustReceive(token, deposit) returns (bytes32 channelId) {
        bytes32 expectedNonce = keccak256(abi.encode(from, payee, token, salt, authorizedSigner));
        if (nonce != expectedNonce) revert NonceMismatch(nonce, expectedNonce);
        channelId = _open(from, payee, token, deposit, salt, authorizedSigner);
        IReceiveWithAuthorization(token)
            .receiveWithAuthorization(from, address(this), deposit, validAfter, validBefore, nonce, signature);
    }

    /// @inheritdoc IChannelEscrow
    function openWithPermit(
        address payee,
        address token,
        uint128 deposit,
        bytes32 salt,
        address authorizedSigner,
        uint256 deadline,
        uint8 v,
        bytes32 r,
        bytes32 s
    ) external nonReentrant mustReceive(token, deposit) returns (bytes32 channelId) {
        channelId = _open(msg.sender, payee, token, deposit, salt, authorizedSigner);
        _tryPermit(token, deposit, deadline, v, r, s);
        IERC20(token).safeTransferFrom(msg.sender, address(this), deposit);
    }

    /// @inheritdoc IChannelEscrow
    function topUp(ChannelDescriptor calldata channel, uint128 additionalDeposit) external payable nonReentrant {
        _checkPayer(channel);
        _topUp(_idOf(channel), channel, additionalDeposit);
        _collect(channel.token, additionalDeposit);
    }

    /// @inheritdoc IChannelEscrow
    function topUpWithAuthorization(
        ChannelDescriptor calldata channel,
        uint128 additionalDeposit,
        bytes32 topUpSalt,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        bytes calldata signature
    ) external nonReentrant mustReceive(channel.token, additionalDeposit) {
        (bytes32 channelId, address from) = (_idOf(channel), channel.payer);
        bytes32 expectedNonce = keccak256(abi.encode(channelId, additionalDeposit, from, topUpSalt));
        if (nonce != expectedNonce) revert NonceMismatch(nonce, expectedNonce);
        _topUp(channelId, channel, additionalDeposit);
        IReceiveWithAuthorization(channel.token)
            .receiveWithAuthorization(from, address(this), additionalDeposit, validAfter, validBefore, nonce, signature);
    }

    /// @inheritdoc IChannelEscrow
    function topUpWithPermit(
        ChannelDescriptor calldata channel,
        uint128 additionalDeposit,
        uint256 deadline,
        uint8 v,
        bytes32 r,
        bytes32 s
    ) external nonReentrant mustReceive(channel.token, additionalDeposit) {
        _checkPayer(channel);
        _topUp(_idOf(channel), channel, additionalDeposit);
        _tryPermit(channel.token, additionalDeposit, deadline, v, r, s);
        IERC20(channel.token).safeTransferFrom(msg.sender, address(this), additionalDeposit);
    }

    /// @inheritdoc IChannelEscrow
    function settle(
        ChannelDescriptor calldata channel,
        uint128 cumulativeAmount,
        uint128 captureAmount,
        bytes calldata signature
    ) external nonReentrant {
        _checkPayee(channel);
        _pay(channel.token, channel.payee, _capture(channel, cumulativeAmount, captureAmount, signature, false));
    }

    /// @inheritdoc IChannelEscrow
    function close(
        ChannelDescriptor calldata channel,
        uint128 cumulativeAmount,
        uint128 captureAmount,
        bytes calldata signature
    ) external nonReentrant {
        _checkPayee(channel);
        _pay(channel.token, channel.payee, _capture(channel, cumulativeAmount, captureAmount, signature, true));
    }

    /// @inheritdoc IChannelEscrow
    function settleWithAuthorization(
        ChannelDescriptor calldata channel,
        uint128 cumulativeAmount,
        uint128 captureAmount,
        uint256 nonce,
        uint256 deadline,
        bytes calldata payeeSignature,
        bytes calldata voucherSignature
    ) external nonReentrant {
        _useAuthorization(SETTLE_TYPEHASH, channel, cumulativeAmount, captureAmount, nonce, deadline, payeeSignature);
        _pay(channel.token, channel.payee, _capture(channel, cumulativeAmount, captureAmount, voucherSignature, false));
    }

    /// @inheritdoc IChannelEscrow
    function closeWithAuthorization(
        ChannelDescriptor calldata channel,
        uint128 cumulativeAmount,
        uint128 captureAmount,
        uint256 nonce,
        uint256 deadline,
        bytes calldata payeeSignature,
        bytes calldata voucherSignature
    ) external nonReentrant {
        _useAuthorization(CLOSE_TYPEHASH, channel, cumulativeAmount, captureAmount, nonce, deadline, payeeSignature);
        _pay(channel.token, channel.payee, _capture(channel, cumulativeAmount, captureAmount, voucherSignature, true));
    }

    /// @inheritdoc IChannelEscrow
    function settleBatch(Capture[] calldata captures) external nonReentrant {
        _captureBatch(captures, false);
    }

    /// @inheritdoc IChannelEscrow
    function closeBatch(Capture[] calldata captures) external nonReentrant {
        _captureBatch(captures, true);
    }

    /// @inheritdoc IChannelEscrow
    /// @dev Calls nobody, so it needs no guard.
    function requestClose(ChannelDescriptor calldata channel) external {
        _checkPayer(channel);
        bytes32 channelId = _idOf(channel);
        ChannelState storage state = _openChannel(channelId);
        if (state.closeRequestedAt != 0) return;
        state.closeRequestedAt = uint56(block.timestamp);
        emit CloseRequested(channelId, channel.payer, channel.payee, block.timestamp + CLOSE_GRACE_PERIOD);
    }

    /// @inheritdoc IChannelEscrow
    function withdraw(ChannelDescriptor calldata channel) external nonReentrant {
        _checkPayer(channel);
        bytes32 channelId = _idOf(channel);
        ChannelState storage state = _openChannel(channelId);
        uint256 requestedAt = state.closeRequestedAt;
        if (requestedAt == 0) revert CloseNotReady(0);
        uint256 withdrawableAt = requestedAt + CLOSE_GRACE_PERIOD;
        if (block.timestamp < withdrawableAt) revert CloseNotReady(withdrawableAt);
        _finalize(channelId, channel, state);
    }

    /// @inheritdoc IChannelEscrow
    function computeChannelId(address payer, address payee, address token, bytes32 salt, address authorizedSigner)
        public
        view
        returns (bytes32 channelId)
    {
        return keccak256(abi.encode(payer, payee, token, salt, authorizedSigner, address(this), block.chainid));
    }

    /// @inheritdoc IChannelEscrow
    function getChannel(bytes32 channelId) external view returns (ChannelState memory state) {
        return _channels[channelId];
    }

    /// @inheritdoc IChannelEscrow
    function getChannels(bytes32[] calldata channelIds) external view returns (ChannelState[] memory states) {
        states = new ChannelState[](channelIds.length);
        for (uint256 i = 0; i < channelIds.length; ++i) {
            states[i] = _channels[channelIds[i]];
        }
    }

    /// @inheritdoc IChannelEscrow
    function isNonceUsed(bytes32 channelId, uint256 nonce) external view returns (bool used) {
        return _usedNonces[channelId][nonce];
    }

    /// @inheritdoc IChannelEscrow
    function getVoucherDigest(bytes32 channelId, uint128 cumulativeAmount) public view returns (bytes32 digest) {
        bytes32 structHash = keccak256(abi.encode(VOUCHER_TYPEHASH, channelId, cumulativeAmount));
        return MessageHashUtils.toTypedDataHash(domainSeparator(), structHash);
    }

    /// @inheritdoc IChannelEscrow
    function domainSeparator() public view returns (bytes32) {
        return keccak256(abi.encode(DOMAIN_TYPEHASH, NAME_HASH, VERSION_HASH, block.chainid, address(this)));
    }

    function _idOf(ChannelDescriptor calldata channel) private view returns (bytes32) {
        return computeChannelId(channel.payer, channel.payee, channel.token, channel.salt, channel.authorizedSigner);
    }

    function _checkPayer(ChannelDescriptor calldata channel) private view {
        if (msg.sender != channel.payer) revert NotPayer(msg.sender, channel.payer);
    }

    function _checkPayee(ChannelDescriptor calldata channel) private view {
        if (msg.sender != channel.payee) revert NotPayee(msg.sender, channel.payee);
    }

    function _openChannel(bytes32 channelId) private view returns (ChannelState storage state) {
        state = _channels[channelId];
        if (state.deposit == 0) revert ChannelNotFound(channelId);
        if (state.finalized) revert ChannelFinalized(channelId);
    }

    function _open(address payer, address payee, address token, uint256 deposit, bytes32 salt, address authorizedSigner)
        private
        returns (bytes32 channelId)
    {
        if (payee == address(0)) revert InvalidPayee(payee);
        if (deposit == 0) revert ZeroDeposit();
        if (deposit > type(uint96).max) revert DepositOverflow(deposit);
        channelId = computeChannelId(payer, payee, token, salt, authorizedSigner);
        ChannelState storage state = _channels[channelId];
        if (state.deposit != 0) revert ChannelAlreadyExists(channelId);
        state.deposit = uint96(deposit);
        emit ChannelOpened(channelId, payer, payee, token, salt, authorizedSigner, deposit);
    }

    function _topUp(bytes32 channelId, ChannelDescriptor calldata channel, uint256 additionalDeposit) private {
        ChannelState storage state = _openChannel(channelId);
        if (additionalDeposit == 0) revert ZeroDeposit();
        uint256 deposit = state.deposit + additionalDeposit;
        if (deposit > type(uint96).max) revert DepositOverflow(deposit);
        state.deposit = uint96(deposit);
        emit TopUp(channelId, channel.payer, channel.payee, additionalDeposit, deposit);
        if (state.closeRequestedAt == 0) return;
        state.closeRequestedAt = 0;
        emit CloseRequestCancelled(channelId, channel.payer, channel.payee);
    }

    /// @dev The rules of settle and close; the caller pays the payee. A close that captures nothing needs no voucher.
    function _capture(
        ChannelDescriptor calldata channel,
        uint256 cumulativeAmount,
        uint256 captureAmount,
        bytes calldata signature,
        bool closing
    ) private returns (uint256 captured) {
        bytes32 channelId = _idOf(channel);
        ChannelState storage state = _openChannel(channelId);
        (uint256 deposit, uint256 settled) = (state.deposit, state.settled);
        if (captureAmount < settled) revert AmountNotIncreasing(captureAmount, settled);
        if (captureAmount == settled && !closing) revert AmountNotIncreasing(captureAmount, settled);
        if (captureAmount > cumulativeAmount) revert CaptureAmountInvalid(captureAmount, cumulativeAmount);
        if (captureAmount > deposit) revert AmountExceedsDeposit(captureAmount, deposit);
        captured = captureAmount - settled;
        if (captured != 0) {
            address signer = channel.authorizedSigner == address(0) ? channel.payer : channel.authorizedSigner;
            _checkSignature(signer, getVoucherDigest(channelId, uint128(cumulativeAmount)), signature);
            state.settled = uint96(captureAmount);
        }
        if (closing) _finalize(channelId, channel, state);
        else emit Settled(channelId, channel.payer, channel.payee, captured, captureAmount);
    }

    /// @dev The payee is paid once for each run of the same token. Nothing can call back in between: the guard is set.
    function _captureBatch(Capture[] calldata captures, bool closing) private {
        (address token, uint256 owed) = (address(0), 0);
        for (uint256 i = 0; i < captures.length; ++i) {
            Capture calldata item = captures[i];
            _checkPayee(item.channel);
            if (item.channel.token != token) {
                _pay(token, msg.sender, owed);
                (token, owed) = (item.channel.token, 0);
            }
            owed += _capture(item.channel, item.cumulativeAmount, item.captureAmount, item.signature, closing);
        }
        _pay(token, msg.sender, owed);
    }

    function _finalize(bytes32 channelId, ChannelDescriptor calldata channel, ChannelState storage state) private {
        uint256 refund = state.deposit - state.settled;
        state.finalized = true;
        emit ChannelClosed(channelId, channel.payer, channel.payee, state.settled, refund);
        _pay(channel.token, channel.payer, refund);
    }

    /// @dev Checks a payee's authorization and uses up its nonce.
    function _useAuthorization(
        bytes32 typeHash,
        ChannelDescriptor calldata channel,
        uint256 cumulativeAmount,
        uint256 captureAmount,
        uint256 nonce,
        uint256 deadline,
        bytes calldata signature
    ) private {
        bytes32 channelId = _idOf(channel);
        if (block.timestamp > deadline) revert AuthorizationExpired(deadline);
        if (_usedNonces[channelId][nonce]) revert NonceAlreadyUsed(channelId, nonce);
        _usedNonces[channelId][nonce] = true;
        bytes32 terms = keccak256(abi.encode(typeHash, channelId, cumulativeAmount, captureAmount, nonce, deadline));
        _checkSignature(channel.payee, MessageHashUtils.toTypedDataHash(domainSeparator(), terms), signature);
    }

    /// @dev ECDSA first, so that code set on an account later (EIP-7702) cannot void what it signed before.
    function _checkSignature(address signer, bytes32 digest, bytes calldata signature) private view {
        // slither-disable-next-line unused-return: what is left out only says why recovery failed
        (address recovered, ECDSA.RecoverError err,) = ECDSA.tryRecoverCalldata(digest, signature);
        if (err == ECDSA.RecoverError.NoError && recovered == signer) return;
        if (signer.code.length == 0) revert InvalidSignature(signer, digest);
        bool valid = SignatureChecker.isValidERC1271SignatureNowCalldata(signer, digest, signature);
        if (!valid) revert InvalidSignature(signer, digest);
    }

    function _collect(address token, uint256 amount) private {
        if (token != address(0)) return _collectFromCaller(token, amount);
        if (msg.value != amount) revert InvalidValue(msg.value, amount);
    }

    function _collectFromCaller(address token, uint256 amount) private mustReceive(token, amount) {
        if (msg.value != 0) revert InvalidValue(msg.value, 0);
        IERC20(token).safeTransferFrom(msg.sender, address(this), amount);
    }

    /// @dev A failed permit is no error: someone may have submitted it first, and then the allowance is there.
    function _tryPermit(address token, uint256 amount, uint256 deadline, uint8 v, bytes32 r, bytes32 s) private {
        try IERC20Permit(token).permit(msg.sender, address(this), amount, deadline, v, r, s) {} catch {}
    }

    function _pay(address token, address to, uint256 amount) private {
        if (amount == 0) return;
        if (token == address(0)) Address.sendValue(payable(to), amount);
        else IERC20(token).safeTransfer(to, amount);
    }
}
